"""Figures of the score against the searched values: key by key, and all keys at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from cyclegan.numbers import ceil_div
from search.study.figures.states import (
    WIDTH,
    add_quickly,
    counts_and_best,
    scatter_states,
    score_words,
    state_legend,
)
from search.study.study import StudyHandle
from search.study.trials import Trial, best_of, declared_keys, searched_keys
from viz import units
from viz.palette import BEST
from viz.plots import Mark, Plot, ScoreAxis, colour, literal, new_figure, tidy
from viz.text import short_names, short_text

_COLUMNS = 4
_ENOUGH = 3
"""Number of complete trials that suffice to set the score axis."""
_MAP = ListedColormap(colormaps["viridis"](np.linspace(0.25, 0.92, 256)))
"""Colours of scores, all of which can be seen on white paper and on a dark page."""
_ENDED = ("complete", "pruned")


@dataclass(frozen=True)
class KeyAxis:
    """The axis for the values of one key."""

    low: float
    high: float
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def of(cls, key: str, records: Sequence[Trial]) -> KeyAxis:
        """Return the axis of all values that were drawn: a space may differ from trial to trial."""
        drawn = [r.distributions[key] for r in records if key in r.distributions]
        if any(isinstance(d, CategoricalDistribution) for d in drawn):
            every = (c for d in drawn for c in getattr(d, "choices", ()))
            found = [*every, *(r.values[key] for r in records if key in r.values)]
            choices = tuple(dict.fromkeys(short_text(c, 12) for c in found))
            return cls(0.0, max(1.0, len(choices) - 1.0), choices=choices)
        low, high = min(d.low for d in drawn), max(d.high for d in drawn)  # type: ignore[attr-defined]
        log = all(d.log for d in drawn) and low > 0  # type: ignore[attr-defined]
        return cls(low, high if high > low else low + 1.0, log=log)

    def place(self, value: Any) -> float:
        """Return the position of a value in the axis's own units."""
        return float(self.choices.index(short_text(value, 12)) if self.choices else value)

    def share(self, value: Any) -> float:
        """Return the position of a value between the axis's ends, within [0, 1]."""
        at, low, high = self.place(value), self.low, self.high
        if self.log:
            at, low, high = np.log(at), np.log(low), np.log(high)
        return float((at - low) / (high - low))

    def apply(self, axes: Axes) -> None:
        """Set the scale, limits and labels of the horizontal axis."""
        if self.choices:
            axes.set_xlim(-0.5, len(self.choices) - 0.5)
            turned = sum(map(len, self.choices)) > 24
            axes.set_xticks(
                range(len(self.choices)),
                [literal(choice) for choice in self.choices],
                rotation=30 if turned else 0,
                ha="right" if turned else "center",
            )
            return
        margin = 0.04
        if self.log:
            axes.set_xscale("log")
            axes.set_xticks(self._log_ticks(), [f"{tick:.3g}" for tick in self._log_ticks()])
            axes.xaxis.set_minor_locator(NullLocator())
            reach = (self.high / self.low) ** margin
            axes.set_xlim(self.low / reach, self.high * reach)
        else:
            reach = margin * (self.high - self.low)
            axes.set_xlim(self.low - reach, self.high + reach)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=isinstance(self.low, int)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))

    def _log_ticks(self) -> list[float]:
        """Return some or all powers of ten if there are two or more, else the two ends."""
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        if last <= first:
            return [self.low, self.high]
        return [10.0**power for power in range(first, last + 1, 1 + (last - first) // 4)]

    def ends(self) -> tuple[str, str]:
        """Return the labels of the lower and the upper end."""
        return f"{self.low:.3g}", f"{self.high:.3g}"


def slices(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw the score over each key's values; None before the first score."""
    shown = [r for r in records if r.state in _ENDED and r.score is not None]
    keys = ordered_keys(handle, shown)
    if not keys:
        return None
    # Pruned trials were judged earlier, when scores are lower; they must not flatten the others.
    done = [r.score for r in shown if r.state == "complete"]
    scale = ScoreAxis.of(done if len(done) >= _ENOUGH else [r.score for r in shown])
    names = short_names(keys)
    rows = ceil_div(len(keys), _COLUMNS)
    columns = ceil_div(len(keys), rows)
    title = f"{handle.definition.name}: score by searched value"
    figure = new_figure(WIDTH, 0.6 + 2.3 * rows, title)
    figure.about = f"Scores over the values of {', '.join(keys)}: {counts_and_best(shown)}"
    grid: NDArray[Any] = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, key in zip(grid.flat, keys, strict=False):
        with_key = [r for r in shown if key in r.values]
        axis = KeyAxis.of(key, with_key)
        points = [
            (
                axis.place(r.values[key]),
                f"{score_words(r)}: {names[key]} {short_text(r.values[key])}",
            )
            for r in with_key
        ]
        scatter_states(figure, axes, points, with_key, scale)
        axis.apply(axes)
        scale.apply(axes)
        tidy(axes)
        axes.set_xlabel(literal(names[key]), fontsize=9)
    for axes in grid.flat[len(keys) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("score", fontsize=9)
    state_legend(figure, shown, scale)
    return figure


def parallel_coordinates(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw a line for each trial through its values, coloured by score.

    Pruned trials are thin lines behind. None before two complete trials.
    """
    shown = [r for r in records if r.state in _ENDED and r.score is not None]
    done = [r for r in shown if r.state == "complete"]
    keys = ordered_keys(handle, shown)
    if len(done) < 2 or not keys:
        return None
    names = short_names(keys)
    every = {key: KeyAxis.of(key, [r for r in shown if key in r.values]) for key in keys}
    scale = ScoreAxis.of(r.score for r in done)
    figure = new_figure(
        max(WIDTH, 1.0 + 0.8 * len(keys)),
        4.4,
        f"{handle.definition.name}: values of {units.count(len(shown), 'trial')}",
    )
    figure.about = f"Values of {', '.join(keys)} in each trial: {counts_and_best(shown)}"
    axes = figure.subplots()
    shades = ScalarMappable(Normalize(scale.low, scale.high), _MAP)
    best = best_of(done)
    places = np.arange(len(keys))
    for record in sorted(shown, key=lambda r: (r.state == "complete", r.score)):
        y = [every[k].share(record.values[k]) if k in record.values else np.nan for k in keys]
        if record.state != "complete":
            look: dict[str, Any] = {"color": colour("pruned"), "alpha": 0.35, "linewidth": 0.8}
            line = Line2D(places, y, zorder=1, **look)
        else:
            width = 2.8 if record is best else 1.4
            shade = _shade(shades, record)
            line = Line2D(places, y, color=shade, linewidth=width, marker="o", markersize=3)
        add_quickly(axes, line)
        figure.mark(line, Mark("trial", str(record.number), score_words(record)))
    _uprights(axes, [every[key] for key in keys], [literal(names[key]) for key in keys])
    bar = figure.colorbar(shades, ax=axes, pad=0.02)
    bar.set_label("score of complete trials" + _thick(best), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _uprights(axes: Axes, every: Sequence[KeyAxis], names: Sequence[str]) -> None:
    """Draw a vertical axis for each key, labelled with its ends or all its choices."""
    for x, axis in enumerate(every):
        axes.axvline(x, color="#999999", linewidth=0.8, zorder=0)
        if axis.choices:
            for choice in axis.choices:
                axes.text(
                    x + 0.04,
                    axis.share(choice),
                    literal(choice),
                    fontsize=7,
                    color=BEST,
                    va="center",
                )
            continue
        for y, text, side in zip((0, 1), axis.ends(), ("top", "bottom"), strict=True):
            axes.text(x, y - 0.02 + 0.04 * y, text, fontsize=7, ha="center", va=side)
    axes.set_xticks(
        range(len(names)),
        [f"{name}\n(log)" if axis.log else name for name, axis in zip(names, every, strict=True)],
        fontsize=8,
    )
    axes.set_xlim(-0.3, len(names) - 0.6)
    axes.set_ylim(-0.1, 1.08)
    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=8)


def _shade(shades: ScalarMappable, record: Trial) -> Any:
    return shades.to_rgba(np.array([record.score], dtype=float))[0]


def _thick(best: Trial | None) -> str:
    return f" (thick: trial {best.number})" if best else ""


def ordered_keys(handle: StudyHandle, records: Sequence[Trial]) -> list[str]:
    """Return the keys for which some of `records` have a value, in the definition's order."""
    found = searched_keys(records)
    declared = declared_keys(handle.definition.space)
    return [*(k for k in declared if k in found), *(k for k in found if k not in declared)]
