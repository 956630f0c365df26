"""The views that experiments get: useful columns, the best run first, pictures side by side."""

from __future__ import annotations

from collections.abc import Iterable

from tracking.charts import CYCLE_PICTURES, Section, curves, parallel_coordinates, pictures
from tracking.views import View, column

TRIALS, PROMOTED, TRAININGS = KEYS = ("trials", "promoted", "trainings")
"""Keys of the views."""


def trials_view(params: Iterable[str], step: int = 0) -> View:
    """Of a study's trials: score, `params`, outcome.

    `score/value` is what the study ranks a trial by, of which it knows when the trial ends.
    `step` is that of the pictures first shown.
    """
    searched = list(params)
    value = column("metrics", "score/value")
    charts = [curves("score"), parallel_coordinates(searched, "score/value")]
    return View(
        key=TRIALS,
        name="Trials",
        columns=[
            value,
            column("metrics", "score"),
            *(column("params", name) for name in searched),
            column("tags", "outcome"),
            column("metrics", "iteration"),
        ],
        order_by=value,
        filter="tags.kind = 'trial'",
        sections=[_side_by_side(step), Section(name="Score", cards=charts)],
    )


def promoted_view(step: int = 0) -> View:
    """Of what trials became; a study gets it with its first promotion.

    `step` is that of the pictures first shown: one that continues a trial has none at 0.
    """
    tags = ("kind", "trial", "seed", "start", "model_version", "outcome")
    best = column("metrics", "score/best")
    return View(
        key=PROMOTED,
        name="Promoted",
        columns=[best, *(column("tags", tag) for tag in tags)],
        order_by=best,
        # Runs of the kinds `promoted` and `confirm`: MLflow has no IN for tags.
        filter="tags.trial LIKE '%' and tags.kind != 'trial'",
        sections=[_side_by_side(step), _scores()],
    )


def trainings_view() -> View:
    """Of trainings that belong to no study."""
    best = column("metrics", "score/best")
    return View(
        key=TRAININGS,
        name="Trainings",
        columns=[
            best,
            column("metrics", "step"),
            *(column("params", name) for name in ("steps", "lr_g", "lr_d", "net_A")),
            *(column("tags", tag) for tag in ("outcome", "data_A")),
        ],
        order_by=best,
        filter="tags.kind = 'train'",
        sections=[_side_by_side(), _scores()],
    )


def _side_by_side(step: int = 0) -> Section:
    shown = pictures(CYCLE_PICTURES, step, "Six images of each run, on the same patches")
    return Section(name="Pictures", cards=[shown], columns=1, height=980)


def _scores() -> Section:
    return Section(name="Score", cards=[curves("score"), curves("score/best")])
