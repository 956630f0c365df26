"""Translate torch's loss objects, as in `train(lossFuncs_G_A=[nn.BCELoss()])`, to names."""

from __future__ import annotations

import inspect
import sys
from typing import Any, Final

import torch
from torch import nn

from cyclegan.errors import ConfigError
from cyclegan.losses import own
from cyclegan.losses.terms import check_function, functions_for

_ADVERSARIAL: Final[dict[type[nn.Module], str]] = {
    nn.BCELoss: "bce",  # discriminators give logits: the sigmoid belongs to the loss
    nn.BCEWithLogitsLoss: "bce",
    nn.MSELoss: "lsgan",
    nn.KLDivLoss: "kl",
}
_IMAGE: Final[dict[type[nn.Module], str]] = {
    nn.L1Loss: "l1",
    nn.MSELoss: "mse",
    nn.SmoothL1Loss: "smooth_l1",
    nn.KLDivLoss: "kl",
}
_KNOWN: Final = {kind.__name__: kind for kind in (*_ADVERSARIAL, *_IMAGE)}


def function_name_of(loss: object, group: str) -> str:
    """Return the name of the function that `loss` stands for in `group`.

    `loss` is a loss object such as `nn.BCELoss()`, its class, the class's name, a function's name
    or `module:Class`. Another `nn.Module` becomes `module:Class` if its class can be imported by
    that name and needs no arguments. `nn.BCELoss` is `bce`, which takes logits: the sigmoid is in
    the loss.

    Errors: `ConfigError` for a loss that makes no sense in the group, that was made with arguments
    other than the defaults of its class, or whose class can't be found by its name.
    """
    if isinstance(loss, str):
        return _of_name(loss, group)
    kind = loss if isinstance(loss, type) else type(loss)
    if not issubclass(kind, nn.Module):
        raise ConfigError(
            f"lossFuncs_{group}: {loss!r} is not a loss; give a torch.nn.Module, e.g. nn.L1Loss(), "
            f"or a name: {', '.join(functions_for(group))}"
        )
    name = _of_class(kind, group) if kind in _KNOWN.values() else _importable(kind, group)
    if isinstance(loss, nn.Module):
        _check_default(loss, group)
    return name


def _of_name(name: str, group: str) -> str:
    bare = name.removesuffix("()").removeprefix("torch.").removeprefix("nn.")
    if bare in _KNOWN:
        return _of_class(_KNOWN[bare], group)
    check_function(group, name)
    return name


def _of_class(kind: type[nn.Module], group: str) -> str:
    names = _ADVERSARIAL if group[0] in "GD" else _IMAGE
    if kind not in names:
        what = "a patch map" if group[0] in "GD" else "two images"
        raise ConfigError(
            f"lossFuncs_{group}: nn.{kind.__name__} is not a loss of {what}; "
            f"known there: {', '.join(functions_for(group))}, or your own as module:Class"
        )
    check_function(group, names[kind])
    return names[kind]


def _importable(kind: type[nn.Module], group: str) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__":
        raise ConfigError(
            f"lossFuncs_{group}: {kind.__qualname__} is defined in the script that is running, "
            "where a resumed training can't find it; move it to a module of its own"
        )
    found = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)
    if found is not kind:
        raise ConfigError(
            f"lossFuncs_{group}: {name} can't be imported by that name; define the class at the "
            "top level of a module"
        )
    own.check_form(f"lossFuncs_{group}", name)
    needed = [
        p.name
        for p in inspect.signature(kind).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigError(
            f"lossFuncs_{group}: {name} needs arguments ({', '.join(needed)}), and only its name "
            "is stored; derive a class that needs none"
        )
    return name


def _check_default(loss: nn.Module, group: str) -> None:
    """Refuse an object with arguments: only names are stored, so the arguments would be lost."""
    with torch.random.fork_rng(devices=[]):
        default = _settings(type(loss)())
    for key, value in _settings(loss).items():
        if key not in default or default[key] != value:
            raise ConfigError(
                f"lossFuncs_{group}: {type(loss).__name__} was made with {key} = {value!r}, and "
                "only its name is stored; derive a class that needs no arguments and give that"
            )


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None)
        and not key.startswith("_")
        and key != "training"
    }
    return plain | {key: list(b.shape) for key, b in module.named_buffers(recurse=False)}
