"""Faults in a running training, found in its metric history and its current images.

Detectors are pure functions of `Evidence` that return a `Fault` or None; `judge` asks all of them.
Their limits come from the recorded histories of 28 trainings at 1x, 2x and 4x (docs/rollback.md):
what healthy ones do must not be called a fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from cyclegan.metrics.spectrum import low_pass_correlation
from cyclegan.score import MIN_CONTRAST
from search.rollback.policy import Fault

if TYPE_CHECKING:
    from cyclegan.trainer import Trainer

WINDOW = 100
"""Steps that are called recent; the limits below were measured with it."""
EXPLOSION = 8.0
"""A loss has exploded when it was this many times what it was before (healthy: 5), and ..."""
BURST = 20
"""Steps over which a median has to be that high."""
NOISE = 6.0
"""... this many robust standard deviations above it."""
CHANCE = 2.0
"""Adversarial losses below this are ordinary: the largest that a discriminator at chance has
(hinge 2, bce 1.39, least squares 0.5). One that was winning may come back to it at any time."""
RISE = 1.25
"""Factor by which cycle and identity losses rise over four half windows, each above the one before,
while the score gets worse. They rise in healthy trainings, too, where the score gets better."""
DRIFT = 1.3
"""Factor by which cycle and identity losses are above their best, while the score gets worse."""
FAR = 1.8
"""Either factor that is a fault whatever the score says. Healthy trainings: at most 1.41; the cycle
of the noisy domain alone may double, as nobody can restore noise."""
WORSE = 0.5
"""Fall of the score within two windows that is more than its noise."""
FOOLED = 0.6
"""Share of generated patches that a discriminator takes for real, for long. Healthy: at most 0.45.
Its accuracy says less: 0.5 for thousands of steps is healthy at 4x."""
WON = 0.999
"""Accuracy of a discriminator, for very long, from which it teaches nothing. Small networks stay
at 0.995 for 400 steps and end well."""
INVERTED = -0.1
"""Low-pass correlation of input and output below which the contrast is inverted."""
FALL = 8.0
"""How far the score may fall below its best; roughly decibels. Healthy trainings: at most 4.9, and
they take hundreds of steps to come back."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a training is judged by: the accepted path of its metrics, and the last batch."""

    losses: Mapping[str, Array] = field(default_factory=dict)
    """Terms without weight (`C_A_l1`), and the generators' weighted sum `G_total`; (steps,)."""
    gradient: Array = field(default_factory=lambda: np.zeros(0))
    """Norm of the generators' gradient, (steps,)."""
    truth: Mapping[str, Array] = field(default_factory=dict)
    """Patches by discriminator and cell of the truth table (`D_A_FP`), (steps,)."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """real_A fake_B real_B fake_A of the last batch, (B, C, Z, Y, X)."""
    scores: Sequence[tuple[int, float]] = ()
    """(how many steps ago, score) of the validations along the accepted path; -100 where a gate
    failed."""
    kickstarted: NDArray[np.bool_] | None = None
    """Steps in which kickstart was at work, (steps,), or None for none: the cycle losses of these
    say something else, and levels are not compared across them."""

    @classmethod
    def of(cls, trainer: Trainer, scores: Sequence[tuple[int, float]] = ()) -> Evidence:
        """A training's evidence now; transfers what waits on the device."""
        # Steps that restore alone have neither cycles nor discriminators to judge.
        first = trainer.config.pretrain_steps
        columns, steps = trainer.history.columns(first), trainer.history.steps(first)
        kickstarted = np.array([trainer.kickstarted(step - 1) for step in steps.tolist()])
        return cls(
            losses=_below(columns, "loss/"),
            gradient=columns.get("grad_norm_G", np.zeros(0)),
            truth=_below(columns, "truth/"),
            images=trainer.images,
            scores=scores,
            kickstarted=kickstarted.astype(bool),
        )

    def worsens(self, window: int) -> bool:
        """Whether the score fell in the last two windows; False if nobody knows."""
        known = [(age, score) for age, score in self.scores if age <= 4 * window]
        if not known:
            return False
        newest, now = known[-1]
        before = [score for age, score in known if age >= newest + 2 * window]
        return bool(before) and now < before[-1] - WORSE

    def ordinary(self, values: Array) -> Array:
        """The values, (steps,), of the steps without kickstart."""
        if self.kickstarted is None or not values.size:
            return values
        return values[~self.kickstarted]


def non_finite(evidence: Evidence) -> Fault | None:
    """A loss or gradient norm that is NaN or infinite anywhere on the path."""
    first: tuple[int, str, int] | None = None
    for name, values in {**evidence.losses, "gradient": evidence.gradient}.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size and (first is None or len(values) - int(bad[0]) > first[0]):
            first = len(values) - int(bad[0]), name, bad.size
    if first is None:
        return None
    age, name, count = first
    return Fault(
        kind="non_finite",
        reason=f"{name} is not finite in {count} of the last {age} steps",
        severity=math.inf,
        networks=_group(name),
        age=age,
    )


def exploding(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """A loss that was far above what it was in the window before, for `BURST` steps or more.

    Medians and the median absolute deviation (MAD), so that single spikes, which a GAN has often,
    are no fault. Looked for in the whole last window: a burst may be over when it is judged, and
    what it did to the networks is not.
    """
    worst: Fault | None = None
    for name, values in {**evidence.losses, "gradient": evidence.gradient}.items():
        ordinary = evidence.ordinary(values)
        finite = ordinary[np.isfinite(ordinary)]
        before, recent = finite[-2 * window : -window], finite[-window:]
        if before.size < window // 2:
            continue
        centre = float(np.median(before))
        spread = 1.4826 * float(np.median(np.abs(before - centre)))
        level = max(centre, CHANCE) if _adversarial(name) else centre
        limit = max(EXPLOSION * level, level + NOISE * spread)
        medians = np.median(sliding_window_view(recent, BURST), axis=1)
        peak = float(medians.max())
        if limit > 0 and peak > limit and (worst is None or peak / limit > worst.severity):
            worst = Fault(
                kind="exploding",
                reason=f"{name} rose from {centre:.3g} to {peak:.3g} (limit {limit:.3g})",
                severity=peak / limit,
                networks=_group(name),
                age=window - int(np.argmax(medians > limit)),
            )
    return worst


def rising(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Cycle and identity losses that rise over four half windows, each above the one before."""
    level, half = _restoring(evidence), max(window // 2, 1)
    if level.size < 6 * half:  # the first steps of a training may go anywhere
        return None
    parts = [float(np.median(part)) for part in np.split(level[-4 * half :], 4)]
    factor = math.exp(parts[-1] - parts[0])
    limit = RISE if evidence.worsens(window) else FAR
    if factor <= limit or any(np.diff(parts) <= 0):
        return None
    return Fault(
        kind="rising",
        reason=f"cycle and identity losses rise, {factor:.2f}-fold in {4 * half} steps",
        severity=factor / limit,
        networks=_restoring_groups(evidence),
        age=3 * half,
    )


def drifting(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Cycle and identity losses, their geometric mean, far above the best they had."""
    level = _restoring(evidence)
    if level.size < 2 * window:
        return None
    step = max(window // 5, 1)
    # Running medians from the newest backwards, one every `step` steps.
    medians = np.median(sliding_window_view(level[::-1], window)[::step], axis=1)
    best = float(medians.min())
    factor = math.exp(medians[0] - best)
    limit = DRIFT if evidence.worsens(window) else FAR
    if factor <= limit:
        return None
    # Not since the best, which may be long ago: since the limit was passed.
    began = int(np.argmax(medians <= best + math.log(limit)))
    return Fault(
        kind="drifting",
        reason=f"cycle and identity losses are {factor:.2f} times the best they had",
        severity=factor / limit,
        networks=_restoring_groups(evidence),
        age=began * step,
    )


def fooled(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """A discriminator that takes most of what is generated for real, over two windows.

    A generator that learned from pseudo pairs fools a young discriminator because it is good: then
    it is a fault only while the score gets worse.
    """
    if _restored(evidence) and not evidence.worsens(window):
        return None
    return _discriminating(evidence, 2 * window, _lost)


def won(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """A discriminator that is practically never wrong, over ten windows: it teaches nothing."""
    return _discriminating(evidence, 10 * window, _won)


def inverted(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """A generator whose output's coarse structure is the input's with the sign changed."""
    for source, output, group in _translations(evidence):
        correlation = float(low_pass_correlation(evidence.images[source], evidence.images[output]))
        if correlation < INVERTED:
            return Fault(
                kind="inverted",
                reason=f"{output} has {source}'s contrast inverted "
                f"(low-pass correlation {correlation:.2f})",
                severity=correlation / INVERTED,
                networks=(f"C_{group}", f"I_{group}"),
            )
    return None


def flat(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """A generator whose output has lost all contrast."""
    for source, output, group in _translations(evidence):
        target = "real_B" if output == "fake_B" else "real_A"
        spread = evidence.images[target].std().clamp_min(1e-12)
        contrast = float(evidence.images[output].std() / spread)
        if contrast < MIN_CONTRAST:
            return Fault(
                kind="flat",
                reason=f"{output} is flat: {contrast:.3f} of {target}'s standard deviation "
                f"(translated from {source})",
                severity=MIN_CONTRAST / max(contrast, 1e-6),
                networks=(f"G_{group}", f"I_{group}"),
            )
    return None


def score_fell(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Two validations in a row far below the best: what no loss shows, held-out patches do."""
    if len(evidence.scores) < 3:
        return None
    best = max(score for _, score in evidence.scores[:-2])
    (age, _), _ = last = evidence.scores[-2:]
    now = max(score for _, score in last)
    if best - now <= FALL:
        return None
    return Fault(
        kind="score_fell",
        reason=f"the score fell from {best:.2f} to {now:.2f}",
        severity=(best - now) / FALL,
        networks=("C_A", "C_B"),
        age=age,
    )


DETECTORS = (exploding, rising, drifting, fooled, won, inverted, flat, score_fell)
"""Asked at every judgement, beside `non_finite`."""


def judge(evidence: Evidence) -> Fault | None:
    """The worst fault of a training, or None."""
    found = non_finite(evidence)
    if found:
        return found
    faults = [detector(evidence) for detector in DETECTORS]
    return max((f for f in faults if f), key=lambda f: f.severity, default=None)


def _restoring(evidence: Evidence) -> Array:
    """Mean logarithm of the cycle and identity losses, (steps,); empty if there are none."""
    found = [v for name, v in evidence.losses.items() if name.startswith(("C_", "I_"))]
    if not found:
        return np.zeros(0)
    level: Array = np.mean([np.log(np.maximum(v, 1e-9)) for v in found], axis=0)
    return evidence.ordinary(level)


def _restored(evidence: Evidence) -> bool:
    """Whether pseudo pairs or half scans hold G_A."""
    return any(name.startswith(("P_A", "H_A")) for name in evidence.losses)


def _restoring_groups(evidence: Evidence) -> tuple[str, ...]:
    groups = {name[:3] for name in evidence.losses if name.startswith(("C_", "I_"))}
    return tuple(sorted(groups))


def _lost(table: Mapping[str, float], name: str, steps: int) -> Fault | None:
    share = table["FP"] / max(table["FP"] + table["TN"], 1e-9)
    if share <= FOOLED:
        return None
    return Fault(
        kind="fooled",
        reason=f"{name} takes {100 * share:.0f} % of generated patches for real ({steps} steps)",
        severity=share / FOOLED,
        networks=(name,),
    )


def _won(table: Mapping[str, float], name: str, steps: int) -> Fault | None:
    accuracy = (table["TP"] + table["TN"]) / max(sum(table.values()), 1e-9)
    if accuracy <= WON:
        return None
    return Fault(
        kind="won",
        reason=f"{name} is right in {100 * accuracy:.1f} % of all patches, over {steps} steps",
        severity=accuracy / WON,
        networks=("G_A" if name == "D_A" else "G_B",),
    )


def _discriminating(
    evidence: Evidence, steps: int, ask: Callable[[Mapping[str, float], str, int], Fault | None]
) -> Fault | None:
    """The worst of both discriminators, by their truth tables over the last `steps`."""
    faults = []
    for name in sorted({key[:3] for key in evidence.truth}):
        cells = {cell: evidence.truth[f"{name}_{cell}"] for cell in ("TP", "FN", "FP", "TN")}
        if min(len(column) for column in cells.values()) >= steps:
            faults.append(ask({c: float(v[-steps:].sum()) for c, v in cells.items()}, name, steps))
    return max((f for f in faults if f), key=lambda f: f.severity, default=None)


def _translations(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for source, output, group in (("real_A", "fake_B", "A"), ("real_B", "fake_A", "B")):
        if source in evidence.images:
            yield source, output, group


def _below(columns: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): v for n, v in columns.items() if n.startswith(prefix)}


def _adversarial(name: str) -> bool:
    return name[:2] in ("G_", "D_") and name != "G_total"


def _group(name: str) -> tuple[str, ...]:
    head = name[:3]
    return (head,) if head[1:2] == "_" and name != "G_total" else ()
