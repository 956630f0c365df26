"""The hyperparameters that may change during a training: learning rates and lambdas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cyclegan.config import Config
from cyclegan.errors import ConfigError, nearest
from cyclegan.losses import GROUPS

LambdaValues = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class HParams:
    """Immutable hyperparameters; `changed` returns new ones, `Trainer.set_hparams` applies them."""

    lr_g: float
    lr_d: float
    lambdas: LambdaValues
    """Group -> one weight per term."""

    @classmethod
    def from_config(cls, config: Config) -> HParams:
        """Return the values with which a training starts."""
        lambdas = {group: tuple(getattr(config.lambdas, group)) for group in GROUPS}
        return cls(lr_g=config.lr_g, lr_d=config.lr_d, lambdas=lambdas)

    @classmethod
    def from_flat(cls, values: Mapping[str, float]) -> HParams:
        """Return the hyperparameters from the values that `flat` returned."""
        lambdas: dict[str, tuple[float, ...]] = {}
        for name, value in values.items():
            if name.startswith("lambdas."):
                group = name.split(".")[1]
                lambdas[group] = (*lambdas.get(group, ()), float(value))
        return cls(lr_g=values["lr_g"], lr_d=values["lr_d"], lambdas=lambdas)

    def flat(self) -> dict[str, float]:
        """Return all values by dotted name: `lr_g`, `lambdas.C_A`, `lambdas.G_A.1`."""
        values = {"lr_g": self.lr_g, "lr_d": self.lr_d}
        for group, weights in self.lambdas.items():
            for i, weight in enumerate(weights):
                values[f"lambdas.{group}" + (f".{i}" if len(weights) > 1 else "")] = weight
        return values

    def changed(self, changes: Mapping[str, float]) -> HParams:
        """Return a copy with `changes` by dotted name.

        Errors: `ConfigError` for an unknown name, a value that is negative or not finite, or if no
        lambda is left.
        """
        lambdas = {group: list(weights) for group, weights in self.lambdas.items()}
        rates = {"lr_g": self.lr_g, "lr_d": self.lr_d}
        known = self.flat()
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"hyperparameter '{name}' is not known; {nearest(name, known)}")
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} = {value} must be finite and not negative")
            if name in rates:
                rates[name] = float(value)
            else:
                _, group, *index = name.split(".")
                lambdas[group][int(index[0]) if index else 0] = float(value)
        if not any(any(weights) for weights in lambdas.values()):
            raise ConfigError("all lambdas would be 0, and the training would learn nothing")
        return replace(self, lambdas={g: tuple(w) for g, w in lambdas.items()}, **rates)
