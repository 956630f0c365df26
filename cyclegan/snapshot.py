"""Snapshots: the state of a training in host memory, to which a rollback returns.

On a GPU the training waits only for a copy within the device; the transfer to the host's pinned
memory runs on a separate stream while training goes on. Reading the snapshot waits for its end.

A compact snapshot has half the size. Weights are rounded to bf16 (8 bits of precision) or fp16 (11
bits), Adam's moments to bf16 in both cases: squares of small gradients are too small for fp16, and
a second moment of 0 makes Adam's next step explode. Counters, statistics of normalisation layers
and single values stay as they are. A rollback to a compact snapshot is not exact to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from cyclegan.hparams import HParams
from cyclegan.pinned import bytes_taken, empty_like

Precision = Literal["full", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("full", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Training state in host memory: networks, optimizers, hyperparameters, step."""

    step: int
    iteration: int
    """Iteration at which the snapshot was taken."""
    hparams: HParams
    training: Mapping[str, Any]
    """Copy of `CycleGAN.training_state`; read it with `state`, which waits until it has arrived."""
    arrived: torch.cuda.Event | None = field(default=None, compare=False, repr=False)

    def state(self) -> Mapping[str, Any]:
        """Return the state for `CycleGAN.load_training_state`, once it has arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.training

    def nbytes(self) -> int:
        """Return the size in host memory, in bytes, unused parts of pinned blocks included."""
        return bytes_taken(tensors_of(self.training))

    def is_finite(self) -> bool:
        """Return True if all values are finite."""
        floats = (t for t in tensors_of(self.state()) if t.is_floating_point())
        return all(bool(torch.isfinite(tensor).all()) for tensor in floats)

    def to_plain(self, *, apart: bool = False) -> dict[str, Any]:
        """Return the snapshot as plain values and tensors for checkpoints.

        `apart` gives each tensor memory of its own, for `pickle`: with a tensor it stores all that
        the tensor shares memory with. `torch.save` stores shared memory once.
        """
        training = self.state()
        return {
            "step": self.step,
            "iteration": self.iteration,
            "hparams": self.hparams.flat(),
            "training": copied(training) if apart else training,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot from the values that `to_plain` returned."""
        return cls(
            step=int(plain["step"]),
            iteration=int(plain["iteration"]),
            hparams=HParams.from_flat(plain["hparams"]),
            training=plain["training"],
        )


def take_snapshot(
    training: Mapping[str, Any],
    *,
    step: int,
    iteration: int,
    hparams: HParams,
    precision: Precision = "full",
) -> Snapshot:
    """Return a snapshot of `training` (`CycleGAN.training_state`), independent of later steps."""
    copies = copied(training, precision)
    arrived = None
    if any(tensor.is_cuda for tensor in tensors_of(copies)):
        copies, arrived = _sent(copies)
    return Snapshot(
        step=step, iteration=iteration, hparams=hparams, training=copies, arrived=arrived
    )


def copied(value: Any, precision: Precision = "full", path: tuple[str, ...] = ()) -> Any:
    """Return nested state with every tensor cloned on its device, in the snapshot's precision."""
    if isinstance(value, Tensor):
        return value.detach().to(_kept_as(value, precision, path), copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item, precision, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item, precision, path) for item in value)
    return value


def _kept_as(tensor: Tensor, precision: Precision, path: tuple[str, ...]) -> torch.dtype:
    exact = not tensor.is_floating_point() or tensor.numel() <= 1 or "running_" in path[-1]
    if precision == "full" or exact:
        return tensor.dtype
    if precision == "bf16" or path[0].startswith("optimizer"):
        return torch.bfloat16
    return torch.float16


def _sent(copies: Any) -> tuple[Any, torch.cuda.Event]:
    """Return `copies` in pinned memory, filled on a separate stream, and the event of arrival."""
    # Not the current device's, which may be another: the copy would not wait for the training then.
    device = next(tensor.device for tensor in tensors_of(copies) if tensor.is_cuda)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    places = iter(empty_like(tensor for tensor in tensors_of(copies) if tensor.is_cuda))
    with torch.cuda.stream(stream):
        pinned = _pinned(copies, stream, places)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(stream)
    return pinned, arrived


def _pinned(value: Any, stream: torch.cuda.Stream, places: Iterator[Tensor]) -> Any:
    """Copy nested state into `places`, which has one for each tensor on the GPU, in order."""
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value
        value.record_stream(stream)  # otherwise its memory is reused while it is being read
        return next(places).copy_(value, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _pinned(item, stream, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_pinned(item, stream, places) for item in value)
    return value


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested state, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
