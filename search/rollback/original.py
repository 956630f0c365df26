"""The policy `original`: the dynamic optimizer of the predecessor software, for comparison.

A judgement gives penalty points for flipped contrast, for rising losses and for drifting cycles; a
total of more than 1 is a fault. The first retry moves all lambdas at random, then moves each
towards what its network seems to lack, and changes both learning rates. Later retries use the
initial values again. A healthy training is moved as well, but less. The constants are the
original's.

Corrected, because these were bugs:
- a changed learning rate reaches the optimizers, because the trainer sets it;
- the training falls back to before the fault, not to before the largest step it ever reached;
- a state is judged before it is saved;
- lambdas, rates and history fall back with the networks, and checkpoints hold the random state;
- the number of rollbacks is bounded, even if a training passes briefly before it fails again;
- histories lose no entry when the training falls back;
- losses that are not positive (hinge, Wasserstein) have no ratio: only their level is judged;
- lambdas are moved in the original's unit, in which they sum to 200, and then scaled back.

Retained, although these are defects:
- healthy trainings are perturbed: cycle lambdas fall relative to the generators' all along;
- flat output gives no points, and one flipped direction alone is no fault;
- the lambdas of the discriminators, nearly inert under Adam, share the budget;
- values that are not a number are never noticed;
- learning rates are pulled down, at an accuracy of 0.7 to 49 % (G) and 9 % (D) of what they were,
  and decay with the step, in addition to `lr_schedule`.

Identity losses, which the original does not have, give no points; their lambdas move at random and
take part in scaling. Terms that are 0 at the start stay 0 and are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cyclegan.config import HPOptimizer
from cyclegan.hparams import HParams
from search.rollback.policy import Fault, Move, Retry

if TYPE_CHECKING:
    from cyclegan.trainer import Trainer

SIX = ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B")
"""The loss groups that the original has."""
RECENT = 100
"""Number of steps whose mean is compared with the mean of as many steps before."""
SMOOTH = 20
"""Number of steps of a running mean."""
BUDGET = 200.0
"""Sum of the original's lambdas: the unit in which they are adjusted."""
DECAY = 0.99998
"""Decay of the learning rates per step."""
GRAVE = 20.0
"""Points for a fault that stands regardless of all others."""

Array = NDArray[np.float64]

# The original does not test whether values are finite. A mean over NaN is NaN and comparisons with
# NaN are false, so no rule fires. All rules below are written to preserve this behaviour.


def flip_points(images: Mapping[str, Tensor]) -> float:
    """Return points for directions whose output resembles its negative input more than its input.

    `images`: real_A, fake_B, real_B and fake_A, (B, C, Z, Y, X) each. Input and output are compared
    in their first channels, as many as both have. MSE(x, y) > MSE(-x, y) is the same as sum(x y) <
    0. 20 points for both directions, 0.5 for one.
    """
    flipped = 0
    for source, output in (("real_A", "fake_B"), ("real_B", "fake_A")):
        if source in images:
            x, y = _resized(images[source]), _resized(images[output])
            channels = min(x.shape[1], y.shape[1])
            flipped += bool((x[:, :channels] * y[:, :channels]).sum() < 0)
    return (0.0, 0.5, GRAVE)[flipped]


def loss_points(losses: Mapping[str, Array]) -> dict[str, float]:
    """Return points for each loss that jumped, rose, or is above 20; `losses`: name -> (steps,)."""
    points = {}
    for name, values in losses.items():
        before, now = _mean(values[-2 * RECENT : -RECENT]), _mean(values[-RECENT:])
        peak = float(np.max(_running(values[-2 * RECENT :])))
        found = 0.0
        if before > 0 and peak > 4 * before:
            found += peak / (3 * before) - 1
        if before > 0 and now > before:
            found += now / before - 1
        if now > 20:
            found += GRAVE
        points[name] = found
    return points


def drift_points(losses: Mapping[str, Array]) -> float:
    """Return 20 if a cycle loss is far above its smallest running mean so far, else 0.

    `losses` is the complete history.
    """
    cycles = (values for name, values in losses.items() if name.startswith("C_"))
    drifts = (_mean(v[-RECENT:]) > 1.4 * (float(np.min(_running(v))) + 0.1) for v in cycles)
    return GRAVE if any(drifts) else 0.0


def directed(losses: Mapping[str, Array], truth: Mapping[str, Array]) -> dict[str, bool]:
    """Return by group whether its lambdas should go up (True) or down; unknown groups are left out.

    The lambdas of a cycle go up if its loss falls more slowly than the cycles do on average; those
    of a generator, if its discriminator is rarely fooled; those of a discriminator, if it is often
    wrong. `truth`: number of patches by discriminator and cell (`D_A_FP`), (steps,).
    """
    slopes = {name: _slope(v[-2 * RECENT :]) for name, v in losses.items() if name[0] == "C"}
    usual = sum(abs(slope) for slope in slopes.values()) / max(len(slopes), 1)
    up = {name: slope > -usual for name, slope in slopes.items()}
    for name in sorted({key[:3] for key in truth}):
        cells = _cells(truth, name)
        up["G" + name[1:]] = _share(cells["FP"], cells["TN"]) < 0.4
        up[name] = _accuracy(cells) < 0.6
    return up


def mean_accuracy(truth: Mapping[str, Array]) -> float:
    """Return the share of patches judged correctly in the last 100 steps, mean over discriminators.

    The share lies within [0, 1].
    """
    names = sorted({key[:3] for key in truth})
    return float(np.mean([_accuracy(_cells(truth, name)) for name in names]))


def adjust(value: float, factor: float) -> float:
    """Return a lambda, in the original's unit, moved by `factor` and clipped to [0.1, 100].

    A factor of 0.3 means up by 30 %.
    """
    return min(max((value + 0.1) * (1 + factor), 0.1), 100.0)


def move_lambdas(
    current: HParams,
    initial: HParams,
    up: Mapping[str, bool],
    random: torch.Generator,
    *,
    reach: float,
    direct: float,
) -> dict[str, float]:
    """Return all lambdas by dotted name: each moved at random, then in the direction of `up`.

    The random move is `reach` x (U(0, 1) - 0.5). Then all terms of a group move the same way, by
    `direct`. After either move the lambdas are scaled to their initial sum.
    """
    first = {n: v for n, v in initial.flat().items() if n.startswith("lambdas.") and v > 0}
    unit = sum(first.values()) / BUDGET
    values = {name: current.flat()[name] / unit for name in first}
    shaken = {name: reach * (_uniform(random) - 0.5) for name in values}
    groups = {name: name.split(".")[1] for name in values}
    steered = {n: direct if up[group] else -direct for n, group in groups.items() if group in up}
    for factors in (shaken, steered):
        moved = {n: adjust(v, factors[n]) if n in factors else v for n, v in values.items()}
        total = sum(moved.values())
        values = {name: value * BUDGET / total for name, value in moved.items()}
    return {name: value * unit for name, value in values.items()}


def move_rates(current: HParams, initial: HParams, skew: float, step: int) -> dict[str, float]:
    """Return both learning rates, moved halfway towards `skew`: at 1 only G learns, at 0 only D."""
    decay = DECAY**step
    return {
        "lr_g": (current.lr_g + initial.lr_g * skew**2 * decay) / 2,
        "lr_d": (current.lr_d + initial.lr_d * (1 - skew) ** 2 * decay) / 2,
    }


class Original:
    """The policy `original`; see the module."""

    def __init__(self, settings: HPOptimizer) -> None:
        self.settings = settings
        self._up: dict[str, bool] = {}
        """The directions in which the lambdas should go, as of the last fault."""

    def signs(self, trainer: Trainer) -> frozenset[str]:
        """Return nothing: every snapshot that was not found faulty can be used."""
        return frozenset()

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        """Return a fault if the points exceed 1; None while the training is young."""
        if young:
            return None
        losses, truth = _evidence(trainer)
        of_losses = loss_points(losses)
        points = {
            "flip": flip_points(trainer.images),
            "loss": sum(of_losses.values()),
            "drift": drift_points(losses),
        }
        total = sum(points.values())
        if not total > 1:
            return None
        self._up = directed(losses, truth)
        kind = max(points, key=lambda name: points[name])
        risen = {name: value for name, value in of_losses.items() if value > 0}
        parts = [f"{name} {value:.3g}" for name, value in (points | risen).items() if value > 0]
        return Fault(
            kind=kind,
            reason=f"{total:.3g} points where 1 is allowed ({', '.join(parts)})",
            severity=total,
            networks=tuple(risen) if kind == "loss" else ("C_A", "C_B"),
        )

    def further_back(self, attempt: int) -> int:
        """Return 100 more steps for every attempt after the tenth."""
        return 100 * max(attempt - 10, 0)

    def move(self, retry: Retry, random: torch.Generator) -> Move:
        """Return lambdas and rates moved from the snapshot's values, or the initial ones.

        Only the first attempt moves; every later attempt uses the initial values.
        """
        if retry.attempt > 1:
            return Move(changes=retry.initial.flat())
        base, initial = retry.base, retry.initial
        lambdas = move_lambdas(base, initial, self._up, random, reach=1.0, direct=0.3)
        return Move(changes=lambdas | move_rates(base, initial, _uniform(random), retry.step))

    def healthy(self, trainer: Trainer, random: torch.Generator) -> Mapping[str, float]:
        """Return smaller moves of all lambdas, and rates set by the discriminators' accuracy."""
        if trainer.step < self.settings.warmup + trainer.config.pretrain_steps:
            return {}
        current, initial = trainer.hparams, HParams.from_config(trainer.config)
        losses, truth = _evidence(trainer)
        up, accuracy = directed(losses, truth), mean_accuracy(truth)
        lambdas = move_lambdas(current, initial, up, random, reach=0.3, direct=0.2)
        return lambdas | move_rates(current, initial, accuracy, trainer.step)

    def on_train_start(self, trainer: Trainer) -> None:
        """Do nothing: there is nothing to prepare."""

    def on_validation(self, score: float, step: int) -> None:
        """Ignore the score."""

    def on_rollback(self, step: int) -> None:
        """Do nothing: all evidence is in the training's history, which the trainer has rewound."""

    def state_dict(self) -> dict[str, Any]:
        """Return the directions in which the lambdas should go."""
        return {"up": dict(self._up)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self._up = dict(state["up"])


def _evidence(trainer: Trainer) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the six losses (unweighted sums of terms) and the truth tables, (steps,) each."""
    config = trainer.config
    columns = trainer.history.columns(config.pretrain_steps)
    losses = {}
    for group in SIX:
        terms = zip(config.terms(group), getattr(config.lambdas, group), strict=True)
        found = [columns[f"loss/{term.name}"] for term, weight in terms if weight > 0]
        if found:
            losses[group] = np.sum(found, axis=0)
    tables = {n.removeprefix("truth/"): v for n, v in columns.items() if n.startswith("truth/")}
    return losses, tables


def _resized(image: Tensor) -> Tensor:
    return functional.interpolate(image.float(), size=(64, 64, 64), mode="trilinear")


def _mean(values: Array) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _running(values: Array) -> Array:
    """Return means of 20 neighbouring steps, or a single NaN if there are fewer."""
    if values.size < SMOOTH:
        return np.full(1, math.nan)
    means: Array = np.lib.stride_tricks.sliding_window_view(values, SMOOTH).mean(axis=1)
    return means


def _slope(values: Array) -> float:
    """Return the slope per step of the least-squares line; 0 for fewer than two steps."""
    if values.size < 2:
        return 0.0
    time = np.arange(values.size) - (values.size - 1) / 2
    return float((time * values).sum() / (time**2).sum())


def _cells(truth: Mapping[str, Array], name: str) -> dict[str, float]:
    return {c: float(truth[f"{name}_{c}"][-RECENT:].sum()) for c in ("TP", "FN", "FP", "TN")}


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else math.nan


def _accuracy(cells: Mapping[str, float]) -> float:
    return _share(cells["TP"] + cells["TN"], cells["FP"] + cells["FN"])


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand((), generator=random))
