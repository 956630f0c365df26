"""Faults in a running training, found in its metric history and its current images.

Detectors are pure functions that return a `Fault` or None; `judge` asks all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cyclegan.history import MetricHistory
from cyclegan.score import MIN_CONTRAST
from cyclegan.spectrum import low_pass_correlation

EXPLOSION = 4.0
"""A loss has exploded when its recent median is this many times the earlier one, and ..."""
NOISE = 6.0
"""... this many robust standard deviations above it."""
INVERTED = -0.1
"""Low-pass correlation of input and output below which the contrast is inverted."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong, in words, and how badly."""

    kind: str
    """`non_finite`, `exploding`, `inverted` or `flat`."""
    reason: str
    severity: float
    """1 is the threshold; infinite for values that are not finite."""
    networks: tuple[str, ...] = ()
    """Loss groups concerned: what a directed move acts on."""


def non_finite(losses: Mapping[str, Array], window: int) -> Fault | None:
    """A loss or gradient norm that was NaN or infinite in the last `window` steps."""
    for name, values in losses.items():
        bad = np.flatnonzero(~np.isfinite(values[-window:]))
        if bad.size:
            return Fault(
                kind="non_finite",
                reason=f"{name} is not finite in {bad.size} of the last {window} steps",
                severity=math.inf,
                networks=_group(name),
            )
    return None


def exploding(losses: Mapping[str, Array], window: int) -> Fault | None:
    """A loss whose median over the last `window` steps has left what it was before.

    Medians and the median absolute deviation (MAD), so that single spikes, which a GAN has often,
    are no fault.
    """
    worst: Fault | None = None
    for name, values in losses.items():
        finite = values[np.isfinite(values)]
        before, recent = finite[-3 * window : -window], finite[-window:]
        if before.size < window or recent.size < window:
            continue
        centre, now = float(np.median(before)), float(np.median(recent))
        spread = 1.4826 * float(np.median(np.abs(before - centre)))
        limit = max(EXPLOSION * centre, centre + NOISE * spread)
        if limit > 0 and now > limit and (worst is None or now / limit > worst.severity):
            worst = Fault(
                kind="exploding",
                reason=f"{name} rose from {centre:.3g} to {now:.3g} (limit {limit:.3g})",
                severity=now / limit,
                networks=_group(name),
            )
    return worst


def inverted(images: Mapping[str, Tensor]) -> Fault | None:
    """A generator whose output's coarse structure is the input's with the sign changed."""
    for source, output, group in _translations():
        correlation = float(low_pass_correlation(images[source], images[output]))
        if correlation < INVERTED:
            return Fault(
                kind="inverted",
                reason=f"{output} has {source}'s contrast inverted "
                f"(low-pass correlation {correlation:.2f})",
                severity=correlation / INVERTED,
                networks=(f"C_{group}", f"I_{group}"),
            )
    return None


def flat(images: Mapping[str, Tensor]) -> Fault | None:
    """A generator whose output has lost all contrast."""
    for source, output, group in _translations():
        target = "real_B" if output == "fake_B" else "real_A"
        contrast = float(images[output].std() / images[target].std().clamp_min(1e-12))
        if contrast < MIN_CONTRAST:
            return Fault(
                kind="flat",
                reason=f"{output} is flat: {contrast:.3f} of {target}'s standard deviation "
                f"(translated from {source})",
                severity=MIN_CONTRAST / max(contrast, 1e-6),
                networks=(f"G_{group}", f"I_{group}"),
            )
    return None


def judge(history: MetricHistory, images: Mapping[str, Tensor], *, window: int) -> Fault | None:
    """The worst fault of a training, or None; `window` is the number of recent steps looked at."""
    losses = _losses(history)
    found = non_finite(losses, 2 * window)
    if found:
        return found
    faults = [exploding(losses, window), inverted(images), flat(images)]
    return max((f for f in faults if f), key=lambda f: f.severity, default=None)


def only_finite(history: MetricHistory, *, window: int) -> Fault | None:
    """The judgement of a training too young for the others."""
    return non_finite(_losses(history), 2 * window)


def _losses(history: MetricHistory) -> dict[str, Array]:
    names = [n for n in history.names if n.startswith("loss/") or n == "grad_norm_G"]
    return {name.removeprefix("loss/"): history.column(name) for name in names}


def _translations() -> Iterator[tuple[str, str, str]]:
    yield "real_A", "fake_B", "A"
    yield "real_B", "fake_A", "B"


def _group(name: str) -> tuple[str, ...]:
    head = name[:3]
    return (head,) if head[1:2] == "_" else ()
