"""The palette of all figures and pages: states of trials, runs, curves.

Okabe and Ito's colours, which colour-blind people can tell apart, a little darker where they lie
on white paper, and a second set for dark pages. Source: M. Okabe and K. Ito, Color Universal
Design, 2008.
"""

from __future__ import annotations

from typing import NamedTuple


class Shade(NamedTuple):
    """A colour on white paper and on a dark page."""

    light: str
    dark: str


STATES = {
    "complete": Shade("#0072b2", "#56b4e9"),
    "pruned": Shade("#d08a00", "#e69f00"),
    "paused": Shade("#5b4bb7", "#a99bf5"),
    "failed": Shade("#d55e00", "#ff8a4a"),
    "running": Shade("#008a66", "#2fc79a"),
    "interrupted": Shade("#b65a8e", "#e39ac4"),
    "waiting": Shade("#8c8c8c", "#8c8c8c"),
}
"""Colours of the states of trials, in the order of legends."""
RUNS = (
    Shade("#0072b2", "#56b4e9"),
    Shade("#c44e00", "#ff8a4a"),
    Shade("#00805c", "#2fc79a"),
    Shade("#b04f8c", "#e39ac4"),
    Shade("#8a6d00", "#e6c229"),
    Shade("#2c9bd6", "#9bdcff"),
    Shade("#5b4bb7", "#a99bf5"),
    Shade("#6b6b6b", "#b0b0b0"),
)
"""Colours of compared runs."""
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#111111", "#8A7B00")
"""Colours of curves in figures on white paper."""
OUTCOMES = {
    "recovered": Shade("#1b7f4d", "#3fbf7f"),
    "failed again": Shade("#b85c00", "#f0974a"),
    "gave up": Shade("#c62828", "#ff6b6b"),
}
"""Colours of the outcomes of rollbacks."""
UNKNOWN = Shade("#5b6470", "#9aa3ae")
"""Colour of a rollback whose outcome is not known yet."""
BROKEN = OUTCOMES["gave up"].light
"""Colour of values that are not finite, and of validations that failed a gate."""
DISCARDED = "#a9a9a9"
"""Colour of everything that a rollback discarded."""
FAINT = "#d3d3d3"
"""Colour of the noise of discarded curves."""
LOST = "#d9a400"
"""Colour of the steps that a rollback undid."""
GREY = "#666666"
"""Colour of an unknown state."""
BEST = "#111111"
"""Colour of the best trial in figures on white paper."""


_PAPER = {
    "#000000": "var(--ink)",
    BEST: "var(--best)",
    GREY: "var(--soft)",
    "#b0b0b0": "var(--soft)",
    "#999999": "var(--soft)",
    "#f2f2f2": "var(--rim)",
    "#ffffff": "var(--paper)",
    FAINT: "var(--line)",
    DISCARDED: "var(--faded)",
}
"""Colours of white paper, those of matplotlib among them, with the variables of a page."""
_SHADES = {shade.light: shade for shade in (*STATES.values(), *RUNS, *OUTCOMES.values(), UNKNOWN)}
_IN_PAGES = _PAPER | {light: f"var(--c{light[1:]})" for light in _SHADES}
"""Colours of a figure on white paper, with those that a page gives it, light or dark."""


def page_colour(colour: str) -> str:
    """Return what a page shows for a colour of a figure on white paper."""
    return _IN_PAGES.get(colour.lower(), colour)


def shade_variables(*, dark: bool) -> str:
    """Return the CSS variables to which `page_colour` refers."""
    return " ".join(
        f"--c{light[1:]}: {shade.dark if dark else light};" for light, shade in _SHADES.items()
    )


def state_variables(*, dark: bool) -> str:
    """Return the CSS variables `--complete` and so on."""
    return " ".join(
        f"--{name}: {shade.dark if dark else shade.light};" for name, shade in STATES.items()
    )
