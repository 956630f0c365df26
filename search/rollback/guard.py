"""The policy `guard`: fall back from faults and leave healthy trainings alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cyclegan.config import HPOptimizer
from cyclegan.hparams import HParams
from search.rollback.detectors import WINDOW, Evidence, flat, inverted, judge, non_finite
from search.rollback.policy import Fault, Move, Retry

if TYPE_CHECKING:
    from cyclegan.trainer import Trainer


class Guard:
    """Judges by `search.rollback.detectors`, and answers a fault with `move`."""

    def __init__(self, settings: HPOptimizer) -> None:
        self.settings = settings
        self._scores: list[tuple[int, float]] = []
        self._kickstart_steps = 0

    def signs(self, trainer: Trainer) -> frozenset[str]:
        """Return the kinds of faults, flat or inverted, that the current images show."""
        evidence = Evidence(images=trainer.images)
        return frozenset(fault.kind for fault in (flat(evidence), inverted(evidence)) if fault)

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        """Return the worst fault; in a young training only values that are not finite count."""
        known = self._scores if self.settings.score else []
        scores = [(trainer.step - step, score) for step, score in known]
        evidence = Evidence.of(trainer, scores)
        if young:
            return non_finite(evidence)
        return judge(evidence)

    def further_back(self, attempt: int) -> int:
        """Return one more snapshot distance per attempt: a fault may begin before it shows."""
        return (attempt - 1) * self.settings.snapshot_every

    def move(self, retry: Retry, random: torch.Generator) -> Move:
        """Return the new values for a retry; see the function `move`."""
        return move(retry, random, kickstart_steps=self._kickstart_steps)

    def healthy(self, trainer: Trainer, random: torch.Generator) -> Mapping[str, float]:
        """Return a small correction if `corrections` is on, otherwise nothing."""
        if not self.settings.corrections:
            return {}
        initial = HParams.from_config(trainer.config)
        return correction(_accuracy(trainer), trainer.hparams, initial)

    def on_train_start(self, trainer: Trainer) -> None:
        """Find out whether this training can use kickstart."""
        config = trainer.config
        # Kickstart closes a cycle on the input itself, so both domains need as many channels.
        self._kickstart_steps = (
            config.kickstart_steps if config.channels_A == config.channels_B else 0
        )

    def on_validation(self, score: float, step: int) -> None:
        """Remember the score."""
        self._scores.append((step, score))

    def on_rollback(self, step: int) -> None:
        """Forget the scores of the abandoned path."""
        self._scores = [(at, score) for at, score in self._scores if at <= step]

    def state_dict(self) -> dict[str, Any]:
        """Return the scores along the accepted path."""
        return {"scores": [list(pair) for pair in self._scores]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scores."""
        self._scores = [(int(step), float(score)) for step, score in state["scores"]]


def _accuracy(trainer: Trainer) -> float:
    """Return the accuracy of both discriminators together over the last `WINDOW` steps."""
    right = total = 0.0
    for name in trainer.history.names:
        if name.startswith("truth/"):
            patches = float(np.nansum(trainer.history.column(name)[-WINDOW:]))
            total += patches
            right += patches if name.endswith(("_TP", "_TN")) else 0.0
    return right / max(total, 1e-9)


# -- New values for a retry: directed by the fault, slightly random, bounded -------------------
#
# The first attempt starts from the values in force at its snapshot. Every further attempt starts
# from the values that have just failed and moves further, so that a remedy for one fault is not
# lost when another fault shows up instead. The first remedy is mild, because most faults are
# accidents (a bad batch, one step too large) that do not recur with other data. A fault in a
# training too young to have ever gone well is no accident and gets a full dose. The fourth remedy
# is drastic. The sum of the lambdas stays at its initial value, because only their ratios matter to
# an optimizer that scales its steps.

LAMBDA_RANGE = 10.0
"""A lambda stays within this factor of its first value, in either direction."""


RATE_RANGE = 20.0
"""A learning rate stays within this factor of its first value, in either direction."""
SHAKE = 0.05
"""Random part of the first attempt: each value is multiplied by exp(U(-SHAKE, SHAKE)). Later
attempts use multiples of it."""
MOST_SHAKE = 0.5
MILD = 0.3
"""Dose (exponent of a remedy's factors) of the first attempt; attempt n has the dose n - 1."""
YOUNG = 500
"""If a fault is found up to this step, attempt n takes dose n, beginning with the first."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """The factors of one full dose."""

    lr_g: float = 1.0
    lr_d: float = 1.0
    lambdas: float = 1.0
    """Factor for the terms of the networks that the fault names."""
    kickstart: bool = False


REMEDIES: Mapping[str, Remedy] = {
    "non_finite": Remedy(lr_g=0.6, lr_d=0.6),
    "exploding": Remedy(lr_g=0.6, lr_d=0.6),
    "rising": Remedy(lr_g=0.7, lr_d=0.7, lambdas=1.4),
    "drifting": Remedy(lr_g=0.7, lr_d=0.7, lambdas=1.4),
    # A discriminator that is always fooled learns too slowly, or swings: the generators wait.
    "fooled": Remedy(lr_g=0.6, lr_d=0.8),
    "won": Remedy(lr_d=0.5, lambdas=1.4),
    # No cycle loss penalises an inverted contrast, so lambdas alone do not turn it back. With large
    # steps it returns after the kickstart.
    "inverted": Remedy(lr_g=0.6, lambdas=1.4, kickstart=True),
    "flat": Remedy(lr_g=0.7, lambdas=1.4, kickstart=True),
    "score_fell": Remedy(lr_g=0.7, lr_d=0.7),
}
"""The remedy for each kind of fault; see `search.rollback.detectors`."""


def move(retry: Retry, random: torch.Generator, *, kickstart_steps: int) -> Move:
    """Return all new values for `retry`, by dotted name. The last attempt gets the initial values.

    If the remedy includes kickstart, it lasts for `kickstart_steps` steps. Terms that are switched
    off (0) stay off.
    """
    remedy = REMEDIES[retry.fault.kind]
    kickstart = kickstart_steps if remedy.kickstart else 0
    if retry.last:
        return Move(changes=retry.initial.flat(), kickstart=kickstart)
    dose = _dose(retry)
    reach = min(SHAKE * retry.attempt, MOST_SHAKE)
    first, changes = retry.initial.flat(), dict[str, float]()
    before = retry.base if retry.attempt == 1 else retry.current
    for name, value in before.flat().items():
        shake = math.exp(reach * (2 * float(torch.rand((), generator=random)) - 1))
        if name.startswith("lr_"):
            factor = remedy.lr_g if name == "lr_g" else remedy.lr_d
            changes[name] = _bounded(value * factor**dose * shake, first[name], RATE_RANGE)
        elif first[name] > 0:
            factor = remedy.lambdas if _names(retry.fault, name) else 1.0
            changes[name] = _bounded(value * factor**dose * shake, first[name], LAMBDA_RANGE)
    return Move(changes=with_sum_of(first, changes), kickstart=kickstart)


def with_sum_of(first: Mapping[str, float], changes: Mapping[str, float]) -> dict[str, float]:
    """Return `changes` with their lambdas scaled to the sum that these lambdas have in `first`."""
    lambdas = [name for name in changes if name.startswith("lambdas.")]
    budget = sum(first[name] for name in lambdas) / sum(changes[name] for name in lambdas)
    return {**changes, **{name: changes[name] * budget for name in lambdas}}


def _dose(retry: Retry) -> float:
    if retry.found <= YOUNG:
        return float(retry.attempt)
    return MILD if retry.attempt == 1 else float(retry.attempt - 1)


CROWDED = 0.9
"""Accuracy of both discriminators above which a correction slows them down."""
STEP = 1.03
"""Factor of one correction."""


def correction(accuracy: float, current: HParams, initial: HParams) -> dict[str, float]:
    """Return a small change after a healthy judgement, by the discriminators' mean accuracy.

    The result is often empty.
    """
    if accuracy > CROWDED:
        return {"lr_d": _bounded(current.lr_d / STEP, initial.lr_d, RATE_RANGE)}
    if accuracy < 0.5:
        return {"lr_g": _bounded(current.lr_g / STEP, initial.lr_g, RATE_RANGE)}
    return {}


def _names(fault: Fault, name: str) -> bool:
    return name.split(".")[1] in fault.networks


def _bounded(value: float, first: float, factor: float) -> float:
    return min(max(value, first / factor), first * factor)
