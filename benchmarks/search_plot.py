"""The plot of docs/search_comparison.md: regret against iterations, from `search_replay.py`.

python benchmarks/search_replay.py --curves curves.json
python benchmarks/search_plot.py curves.json docs/images/search_replay.png
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "random+none": ("random search", "0.45", "-"),
    "grid+none": ("grid", "0.7", "-"),
    "random+first_then_best": ("random, the first fifth, then the best few", "0.45", "--"),
    "tpe+halving": ("TPE, successive halving", "C1", "--"),
    "tpe+none": ("TPE, no pruning", "C1", "-"),
    "optuna_gp+none": ("Optuna's GP, no pruning", "C2", "-"),
    "noisy_gp+percentile75": ("noisy_gp, percentile", "C0", "--"),
    "noisy_gp+percentile75+recipe": ("the same, the recipe first", "C0", "-"),
    "noisy_gp+none+prior+recipe": ("noisy_gp with recorded trainings: auto", "C3", "-"),
}
"""Label, colour and line of each search."""


def draw(path: Path, content: dict[str, Any]) -> None:
    """Draw a panel for each pool."""
    curves, iterations = content["regret_db"], content["iterations"]
    pools = list(dict.fromkeys(name.partition("+")[0] for name in curves))
    figure, axes = plt.subplots(
        1, len(pools), figsize=(10, 3.8), layout="constrained", squeeze=False
    )
    for panel, pool in zip(axes[0], pools, strict=True):
        for search, (label, colour, line) in SHOWN.items():
            regrets = curves.get(f"{pool}+{search}")
            if regrets is not None:
                panel.plot(iterations, regrets, line, color=colour, label=label, lw=1.4)
        panel.set_title(pool, fontsize=10)
        panel.set_xlabel("iterations")
        panel.set_ylim(bottom=0.0)
    axes[0][0].set_ylabel("regret of the choice / dB")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Draw the curves of a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    draw(options.output, json.loads(options.curves.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
