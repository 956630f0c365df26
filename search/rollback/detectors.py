"""Detect faults in a running training from its metric history and its current images.

Detectors are pure functions of `Evidence` that return a `Fault` or None; `judge` runs them all.
Their limits come from the recorded histories of 28 trainings at 1x, 2x and 4x (docs/rollback.md):
nothing that a healthy training does may count as a fault.
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
"""Number of steps that count as recent; the limits below were measured with it."""
EXPLOSION = 8.0
"""A loss explodes if a median reaches this many times its earlier level (healthy: 5) and also
exceeds the limit of `NOISE`."""
BURST = 20
"""Number of steps of that median."""
NOISE = 6.0
"""Number of robust standard deviations by which an exploding loss exceeds its earlier level."""
CHANCE = 2.0
"""Adversarial losses below this value are ordinary: it is the largest loss of a discriminator at
chance (hinge 2, bce 1.39, least squares 0.5). A discriminator that was winning may return to
that level at any time."""
RISE = 1.25
"""Factor by which cycle and identity losses rise over four half windows, each above the one
before, while the score gets worse. They also rise in healthy trainings, but there the score
improves."""
DRIFT = 1.3
"""Factor of cycle and identity losses over their best level, while the score gets worse."""
FAR = 1.8
"""Value of either factor that is a fault regardless of the score. Healthy trainings reach at
most 1.41; only the cycle loss of the noisy domain may double, because noise can't be restored."""
WORSE = 0.5
"""Fall of the score within two windows that exceeds its noise."""
FOOLED = 0.6
"""Share of generated patches that a discriminator takes for real over a long time. Healthy: at
most 0.45. The accuracy is less telling: 0.5 for thousands of steps is healthy at 4x."""
WON = 0.999
"""Accuracy of a discriminator, over a very long time, above which it teaches nothing. Small
networks stay at 0.995 for 400 steps and end well."""
INVERTED = -0.1
"""Low-pass correlation of input and output below which the contrast counts as inverted."""
FALL = 8.0
"""Largest allowed fall of the score below its best, roughly in dB. Healthy trainings fall by at
most 4.9 and take hundreds of steps to recover."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The data by which a training is judged: its accepted metric path and its last batch."""

    losses: Mapping[str, Array] = field(default_factory=dict)
    """Terms without weight (`C_A_l1`), and the generators' weighted sum `G_total`; (steps,)
    each."""
    gradient: Array = field(default_factory=lambda: np.zeros(0))
    """Norm of the generators' gradient, (steps,)."""
    truth: Mapping[str, Array] = field(default_factory=dict)
    """Number of patches by discriminator and cell of the truth table (`D_A_FP`), (steps,)."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """real_A, fake_B, real_B and fake_A of the last batch, (B, C, Z, Y, X)."""
    scores: Sequence[tuple[int, float]] = ()
    """(age in steps, score) of the validations along the accepted path; -100 where a gate
    failed."""
    kickstarted: NDArray[np.bool_] | None = None
    """Steps with active kickstart, (steps,), or None for none. Cycle losses have another meaning
    in these steps, so levels are not compared across them."""

    @classmethod
    def of(cls, trainer: Trainer, scores: Sequence[tuple[int, float]] = ()) -> Evidence:
        """Return the current evidence of a training. Pending metrics are copied from the device."""
        # Pretraining steps only restore: they have no cycles or discriminators to judge.
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
        """Return True if the score fell in the last two windows; False if that is unknown."""
        known = [(age, score) for age, score in self.scores if age <= 4 * window]
        if not known:
            return False
        newest, now = known[-1]
        before = [score for age, score in known if age >= newest + 2 * window]
        return bool(before) and now < before[-1] - WORSE

    def ordinary(self, values: Array) -> Array:
        """Return those of the values, (steps,), that belong to steps without kickstart."""
        if self.kickstarted is None or not values.size:
            return values
        return values[~self.kickstarted]


def non_finite(evidence: Evidence) -> Fault | None:
    """Detect a loss or gradient norm that is NaN or infinite anywhere on the path."""
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
    """Detect a loss far above its level in the window before, for `BURST` steps or more.

    Medians and the median absolute deviation (MAD) keep single spikes, which are common in a GAN,
    from counting as a fault. The whole last window is searched: a burst may be over when it is
    judged, but its effect on the networks is not.
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
    """Detect cycle and identity losses that rise over four half windows, each above the last."""
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
    """Detect cycle and identity losses, as a geometric mean, far above their best level."""
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
    # The age counts from when the limit was passed: the best level may be much older.
    began = int(np.argmax(medians <= best + math.log(limit)))
    return Fault(
        kind="drifting",
        reason=f"cycle and identity losses are {factor:.2f} times the best they had",
        severity=factor / limit,
        networks=_restoring_groups(evidence),
        age=began * step,
    )


def fooled(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Detect a discriminator that takes most generated patches for real, over two windows.

    A generator that learned from pseudo pairs fools a young discriminator because it is good. In
    that case this is a fault only while the score gets worse.
    """
    if _restored(evidence) and not evidence.worsens(window):
        return None
    return _discriminating(evidence, 2 * window, _lost)


def won(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Detect a discriminator that is almost never wrong over ten windows: it teaches nothing."""
    return _discriminating(evidence, 10 * window, _won)


def inverted(evidence: Evidence, window: int = WINDOW) -> Fault | None:
    """Detect a generator whose output has the input's coarse structure with the sign changed."""
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
    """Detect a generator whose output has lost all contrast."""
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
    """Detect two validations in a row far below the best.

    Held-out patches reveal this; no loss does.
    """
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
"""All detectors that run at every judgement, in addition to `non_finite`."""


def judge(evidence: Evidence) -> Fault | None:
    """Return the worst fault of a training, or None."""
    found = non_finite(evidence)
    if found:
        return found
    faults = [detector(evidence) for detector in DETECTORS]
    return max((f for f in faults if f), key=lambda f: f.severity, default=None)


def _restoring(evidence: Evidence) -> Array:
    """Return the mean logarithm of the cycle and identity losses, (steps,); empty without any."""
    found = [v for name, v in evidence.losses.items() if name.startswith(("C_", "I_"))]
    if not found:
        return np.zeros(0)
    level: Array = np.mean([np.log(np.maximum(v, 1e-9)) for v in found], axis=0)
    return evidence.ordinary(level)


def _restored(evidence: Evidence) -> bool:
    """Return True if G_A learns from pseudo pairs or half scans."""
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
    """Return the worse fault of both discriminators in their truth tables of the last `steps`."""
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
