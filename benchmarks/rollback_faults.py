"""The faults of the trainings in `rollback.py`: injected ones, and random hyperparameters.

Each fault happens once, from a given iteration on: iterations are never rewound, so a rollback does
not meet its fault again, just as in practice. A fault acts before an iteration, where the trainer
asks for the next batches; the trainer itself is unchanged. `FAULTS` has them by name:

    healthy              nothing
    nan_gradient         one gradient of G_A is NaN in one iteration
    rate_spike           both learning rates are 100 times as high for 20 iterations
    swapped_contrast     the last layers of both generators and of their running means change sign
    frozen_discriminator the discriminators and their optimizer stand still for 300 iterations
    bad_data             40 iterations see patches 20 times as bright, with saturated voxels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan import Trainer

Batches = tuple[Tensor, Tensor]
SPIKE = 100.0
"""Factor on both learning rates."""
BRIGHTER = 20.0
"""Factor on bad patches; good ones have a standard deviation of about 1."""
SATURATED = 1000.0
"""Grey value of a saturated voxel, in the same units."""
SATURATED_SHARE = 0.01
"""Share of a bad patch's voxels that are saturated."""
SPACE = {
    "lr_g": (2e-4, 3e-2),
    "lr_d": (5e-5, 1e-2),
    "C": (0.1, 100.0),
    "I": (0.1, 10.0),
    "G": (0.3, 10.0),
}
"""Ranges of natural draws, log-uniform; lambdas are those of both directions."""
KNOWN = ({"C": 10.0, "I": 0.0, "G": 1.0}, {"C": 100.0, "I": 0.0, "G": 10.0})
"""Lambdas without identity loss; the first ones often invert the contrast."""


class Fault:
    """Base of the faults; it does nothing itself."""

    lasts = 1
    """Number of disturbed iterations."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def begin(self) -> None:
        """Act before the first disturbed iteration."""

    def end(self) -> None:
        """Act before the first undisturbed iteration."""

    def spoilt(self, batches: Batches) -> Batches:
        """Return the batches (B, C, Z, Y, X) of a disturbed iteration, instead of `batches`."""
        return batches


class NanGradient(Fault):
    """Make the gradient's norm NaN: clipping spreads it to all weights of both generators."""

    def begin(self) -> None:
        """Attach a hook to the first parameter of G_A."""
        parameter = next(self.trainer.model.G_A.parameters())
        self._hook = parameter.register_hook(  # type: ignore[no-untyped-call]
            lambda g: torch.full_like(g, math.nan)
        )

    def end(self) -> None:
        """Remove the hook."""
        self._hook.remove()


class RateSpike(Fault):
    """Raise the rates, as a user might by mistake, and restore them later.

    Rates that a rollback has changed meanwhile are not restored. A snapshot taken within the spike
    has the high rates; a rollback to it brings them back, as in practice.
    """

    lasts = 20

    def begin(self) -> None:
        """Raise the current rates."""
        now = self.trainer.hparams
        self._before = {"lr_g": now.lr_g, "lr_d": now.lr_d}
        self._raised = {name: SPIKE * rate for name, rate in self._before.items()}
        self.trainer.set_hparams(self._raised, reason="rate spike")

    def end(self) -> None:
        """Restore the rates that nobody else has changed."""
        now = self.trainer.hparams
        if {"lr_g": now.lr_g, "lr_d": now.lr_d} == self._raised:
            self.trainer.set_hparams(self._before, reason="rate spike over")


class SwappedContrast(Fault):
    """Turn bright into dark in both directions; cycles stay as good as before."""

    def begin(self) -> None:
        """Change the signs of the last layers, which are linear."""
        model = self.trainer.model
        with torch.no_grad():
            for generator in (model.G_A, model.G_B, model.mean_G_A, model.mean_G_B):
                for parameter in generator.head[-1].parameters():
                    parameter.neg_()


class FrozenDiscriminator(Fault):
    """Freeze the discriminators, Adam's momentum too; a rollback may still restore older ones."""

    lasts = 300

    def begin(self) -> None:
        """Replace the optimizer's method with one that does nothing."""
        vars(self.trainer.model.optimizer_D)["step"] = lambda: None

    def end(self) -> None:
        """Restore the method."""
        del vars(self.trainer.model.optimizer_D)["step"]


class BadData(Fault):
    """Feed data as if a saturated detector had read them with a wrong scale."""

    lasts = 40

    def begin(self) -> None:
        """Seed its own random numbers, to leave the trainer's as they are."""
        self._random = torch.Generator().manual_seed(self.trainer.config.seed)

    def spoilt(self, batches: Batches) -> Batches:
        """Spoil both domains in the same way."""
        real_A, real_B = batches
        return self._spoilt(real_A), self._spoilt(real_B)

    def _spoilt(self, batch: Tensor) -> Tensor:
        drawn = torch.rand(batch.shape, generator=self._random)
        saturated = torch.full_like(batch, SATURATED)
        return torch.where(drawn < SATURATED_SHARE, saturated, BRIGHTER * batch)


FAULTS: dict[str, type[Fault]] = {
    "healthy": Fault,
    "nan_gradient": NanGradient,
    "rate_spike": RateSpike,
    "swapped_contrast": SwappedContrast,
    "frozen_discriminator": FrozenDiscriminator,
    "bad_data": BadData,
}


def inject(
    trainer: Trainer, scenario: str, at: int, before: Callable[[], None] = lambda: None
) -> None:
    """Make `scenario` happen in `trainer` after `at` iterations.

    `before` is called at that moment, before the fault: the trainer is at the boundary between two
    steps, so that a checkpoint is still one of the undisturbed training.
    """
    fault, draw = FAULTS[scenario](trainer), trainer.data.next

    def next_batches() -> Batches:
        age = trainer.iteration - at
        if age == 0:
            before()
            fault.begin()
        if age == fault.lasts:
            fault.end()
        batches = draw()
        return fault.spoilt(batches) if 0 <= age < fault.lasts else batches

    trainer.data.next = next_batches  # type: ignore[method-assign]


def drawn(number: int) -> dict[str, Any]:
    """Return rates and lambdas of a natural draw; two of every five use lambdas of `KNOWN`."""
    random = np.random.default_rng((number, 20))
    values = {
        name: float(np.exp(random.uniform(np.log(low), np.log(high))))
        for name, (low, high) in SPACE.items()
    }
    if number % 5 >= 3:
        values |= KNOWN[number % 5 - 3]
    lambdas = {f"{group}_{d}": values[group] for group in "CIG" for d in "AB"}
    return {"lr_g": values["lr_g"], "lr_d": values["lr_d"], "lambdas": lambdas}
