"""The plot of docs/score.md: criteria of choice against true quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy.stats import spearmanr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = (
    ("score", "value", 1),
    ("cycle loss", "cycle_loss", -1),
    ("SWD", "sliced_wasserstein", -1),
)


def draw(path: Path, then: list[dict[str, Any]], end: list[dict[str, Any]], judge_at: int) -> None:
    """Draw score, cycle loss and sliced Wasserstein distance against true PSNR, per training.

    Trainings that a gate ended are crosses at the left edge; a ring marks the one that the
    criterion would choose among those judged.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
    for panel, (title, name, sign) in zip(axes, PANELS, strict=True):
        best = []
        for rows, colour, label in (
            (then, "C0", f"step {judge_at}"),
            (end, "C1", f"step {end[0]['step']}"),
        ):
            alive = [row for row in rows if row["gate"] is None]
            x, y = (np.array([row[n] for row in alive]) for n in (name, "psnr"))
            best.append((x[np.argmax(sign * x)], y[np.argmax(sign * x)]))
            panel.plot(x, y, "o", color=colour, ms=4, alpha=0.8, label=label)
            gated = [row["psnr"] for row in rows if row["gate"] is not None]
            panel.plot(
                [0.03] * len(gated),
                gated,
                "x",
                color=colour,
                transform=panel.get_yaxis_transform(),
            )
            rho = spearmanr(sign * x, y).statistic
            panel.text(
                0.97,
                0.22 if colour == "C0" else 0.14,
                rf"$\rho$ = {rho:.2f}",
                color=colour,
                transform=panel.transAxes,
                ha="right",
            )
        for (x_best, y_best), colour in zip(best, ("C0", "C1"), strict=True):
            panel.plot(x_best, y_best, "o", ms=11, mfc="none", color=colour)
        panel.set_xlabel(title + (" (more is better)" if sign > 0 else " (less is better)"))
    axes[0].set_ylabel("PSNR against the truth / dB")
    axes[0].legend(loc="upper left", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
