"""Tables of how well each criterion predicts the quality of trainings, for `score_validity.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from score_pool import SPACES
from score_statistics import (
    Interval,
    bootstrap,
    kendall,
    regret,
    regret_by_chance,
    spearman,
)

Row = dict[str, Any]
"""All that is known about one generator, see `score_validity.row_of`."""
OTHER_SCORE = "value, "
"""Prefix of the columns that hold the score by another degradation."""
CRITERIA = {
    "score": ("value", 1),
    "the truth then": ("psnr", 1),
    "score without gain": ("without_pseudo_pair_gain_db", 1),
    "score without spectrum": ("without_spectrum_distance_db", 1),
    "score without SWD": ("without_sliced_wasserstein", 1),
    "score without shells": ("without_shell_gain", 1),
    "score without checkerboard": ("without_checkerboard", 1),
    "gain alone": ("pseudo_pair_gain_db", 1),
    "spectrum alone": ("spectrum_distance_db", -1),
    "SWD alone": ("sliced_wasserstein", -1),
    "shell gain alone": ("shell_gain", 1),
    "shell gap alone": ("shell_gap", -1),
    "checkerboard alone": ("checkerboard", -1),
    "cross-half gain alone": ("cross_half_gain_db", 1),
    "noise in cycle": ("noise_in_cycle_db", -1),
    "cycle loss": ("cycle_loss", -1),
    "generator loss": ("generator_loss", -1),
}
"""Column and sign, +1 where more is better. In practice nobody has `the truth then`: it shows what
the best possible criterion could tell about a training's future."""


def criteria(rows: list[Row]) -> dict[str, tuple[str, int]]:
    """Return the scores by other degradations that all rows have, in the form of `CRITERIA`."""
    names = [name for name in rows[0] if name.startswith(OTHER_SCORE)] if rows else []
    names = [name for name in names if all(name in row for row in rows)]
    return {f"score, {name.removeprefix(OTHER_SCORE)}": (name, 1) for name in names}


def column(rows: list[Row], name: str, sign: int = 1) -> np.ndarray:
    """Return a column as numbers, more is better; rows that a gate left out are worst."""
    return np.array([sign * row[name] if name in row else -1e9 for row in rows])


class Pairing:
    """Rows of the criterion and rows of the quality that it predicts, of the same trainings."""

    def __init__(self, told: list[Row], quality: list[Row], resamples: int) -> None:
        self.told, self.quality, self.resamples = told, quality, resamples
        self.criteria = CRITERIA | criteria(told)
        self.groups = np.array([row["configuration"] for row in told])
        self.seeds = column(told, "seed")

    def rank(self, criterion: str, measure: str, tau: bool = False) -> Interval:
        """Return Spearman's rho or Kendall's tau."""
        statistic = kendall if tau else spearman
        told, quality = column(self.told, *self.criteria[criterion]), column(self.quality, measure)
        return bootstrap(statistic(told, quality), self.groups, self.resamples)

    def regret(self, criterion: str | None, measure: str = "psnr") -> Interval:
        """Return the regret of the choice by `criterion`, in dB or SSIM; None: of a random one."""
        quality = column(self.quality, measure)
        if criterion is None:
            statistic = regret_by_chance(quality, self.seeds)
        else:
            told = column(self.told, *self.criteria[criterion])
            statistic = regret(told, quality, self.seeds)
        return bootstrap(statistic, self.groups, self.resamples)


def print_ranks(title: str, pairing: Pairing) -> None:
    """Print one line per criterion."""
    count, configurations = len(pairing.told), len(np.unique(pairing.groups))
    print(f"\n{title}: {count} trainings of {configurations} configurations")
    print(f"{'criterion':26s} {'rho, PSNR':24s} {'rho, SSIM':24s} {'regret / dB':24s}")
    for name in pairing.criteria:
        cells = (pairing.rank(name, "psnr"), pairing.rank(name, "ssim"), pairing.regret(name))
        print(f"{name:26s} " + " ".join(f"{cell!s:24s}" for cell in cells))
    print(f"{'chance':26s} {' 0.00':24s} {' 0.00':24s} {pairing.regret(None)!s:24s}")
    taus = [pairing.rank("score", measure, tau=True) for measure in ("psnr", "ssim")]
    print(f"score, Kendall's tau: PSNR {taus[0]}, SSIM {taus[1]}")


def print_subsets(title: str, told: list[Row], quality: list[Row], resamples: int) -> None:
    """Print ranks for all trainings, those unseen by the weights' choice, and each kind alone."""
    subsets = {
        "": lambda row: True,
        "fresh configurations": lambda row: row["fresh"],
        **{f"{kind} alone": lambda row, k=kind: row["kind"] == k for kind in SPACES},
    }
    shown = []
    for name, belongs in subsets.items():
        places = [place for place, row in enumerate(told) if belongs(row)]
        if len(places) > 4 and places not in shown:
            shown.append(places)
            chosen_rows = ([table[place] for place in places] for table in (told, quality))
            print_ranks(f"  {title}, {name}" if name else title, Pairing(*chosen_rows, resamples))
