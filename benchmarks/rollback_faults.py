"""What goes wrong in the trainings of `rollback.py`: injected faults, and blindly drawn values.

Each fault happens once, from a given iteration on: iterations are never rewound, so a rollback does
not meet its fault again, as it would not in life. A fault acts ahead of an iteration, where the
trainer asks for the next batches; the trainer itself is not changed. `FAULTS` has them by name:

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
"""What both learning rates are multiplied by."""
BRIGHTER = 20.0
"""What bad patches are multiplied by; good ones have a standard deviation of about 1."""
SATURATED = 1000.0
"""Of a saturated voxel, in the same units."""
SATURATED_SHARE = 0.01
"""Of a bad patch's voxels."""
SPACE = {
    "lr_g": (2e-4, 3e-2),
    "lr_d": (5e-5, 1e-2),
    "C": (0.1, 100.0),
    "I": (0.1, 10.0),
    "G": (0.3, 10.0),
}
"""Ranges of natural draws, log-uniform; lambdas are those of both directions."""
KNOWN = ({"C": 10.0, "I": 0.0, "G": 1.0}, {"C": 100.0, "I": 0.0, "G": 10.0})
"""Lambdas without identity loss; with the first ones the contrast is often inverted."""


class Fault:
    """Base of the faults, and the one that does nothing."""

    lasts = 1
    """Iterations."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def begin(self) -> None:
        """Ahead of the first disturbed iteration."""

    def end(self) -> None:
        """Ahead of the first undisturbed one."""

    def spoilt(self, batches: Batches) -> Batches:
        """What a disturbed iteration sees instead of `batches`, (B, C, Z, Y, X)."""
        return batches


class NanGradient(Fault):
    """The gradient's norm becomes NaN, clipping spreads it to every weight of both generators."""

    def begin(self) -> None:
        """Hook the first parameter of G_A."""
        parameter = next(self.trainer.model.G_A.parameters())
        self._hook = parameter.register_hook(  # type: ignore[no-untyped-call]
            lambda g: torch.full_like(g, math.nan)
        )

    def end(self) -> None:
        """Unhook it."""
        self._hook.remove()


class RateSpike(Fault):
    """Rates as a user may set them by a slip of the pen, and put back.

    Where a rollback put other rates in force meanwhile, nothing is put back. A snapshot taken
    within the spike has the high rates; who falls back to it gets them again, as in life.
    """

    lasts = 20

    def begin(self) -> None:
        """Raise what is in force."""
        now = self.trainer.hparams
        self._before = {"lr_g": now.lr_g, "lr_d": now.lr_d}
        self._raised = {name: SPIKE * rate for name, rate in self._before.items()}
        self.trainer.set_hparams(self._raised, reason="rate spike")

    def end(self) -> None:
        """Put back what nobody else changed."""
        now = self.trainer.hparams
        if {"lr_g": now.lr_g, "lr_d": now.lr_d} == self._raised:
            self.trainer.set_hparams(self._before, reason="rate spike over")


class SwappedContrast(Fault):
    """Bright becomes dark in both directions; cycles are as good as before."""

    def begin(self) -> None:
        """Change the signs of the last layers, which are linear."""
        model = self.trainer.model
        with torch.no_grad():
            for generator in (model.G_A, model.G_B, model.mean_G_A, model.mean_G_B):
                for parameter in generator.head[-1].parameters():
                    parameter.neg_()


class FrozenDiscriminator(Fault):
    """Not even Adam's momentum moves them; a rollback may still restore older ones."""

    lasts = 300

    def begin(self) -> None:
        """Hide the optimizer's method behind one that does nothing."""
        vars(self.trainer.model.optimizer_D)["step"] = lambda: None

    def end(self) -> None:
        """Show it again."""
        del vars(self.trainer.model.optimizer_D)["step"]


class BadData(Fault):
    """A block of the data that was read with a wrong scale, by a detector that saturated."""

    lasts = 40

    def begin(self) -> None:
        """Own random numbers: the trainer's stay as they would be."""
        self._random = torch.Generator().manual_seed(self.trainer.config.seed)

    def spoilt(self, batches: Batches) -> Batches:
        """Both domains alike."""
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

    `before` is called then, ahead of the fault: the state of the trainer is that of the boundary
    between two steps, so a checkpoint of it is one of the undisturbed training.
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
    """Rates and lambdas of a natural draw: of five the last two have the lambdas of `KNOWN`."""
    random = np.random.default_rng((number, 20))
    values = {
        name: float(np.exp(random.uniform(np.log(low), np.log(high))))
        for name, (low, high) in SPACE.items()
    }
    if number % 5 >= 3:
        values |= KNOWN[number % 5 - 3]
    lambdas = {f"{group}_{d}": values[group] for group in "CIG" for d in "AB"}
    return {"lr_g": values["lr_g"], "lr_d": values["lr_d"], "lambdas": lambdas}
