"""Data-parallel training: several processes (ranks) train one model, each on a part of the batch.

All ranks hold the same networks, optimizers, running means and hyperparameters, and do the same
with them:

```
sampler        every rank draws the choices of the whole batch and reads its own patches
losses         gradients and metrics are averaged over the ranks, once a loss, in one collective
validation     is the first rank's; all apply the generators to their part of each batch of patches
callbacks      live on the first rank alone; what they ask for is told to all at the step's boundary
signals        a stop that any rank is asked for stops all of them at the same step
checkpoints    the first rank writes them; image pools and global random numbers are each rank's own
```

So a training on two ranks with one patch each equals one on one rank with two patches, but for the
order in which floating-point numbers are added, and for losses that are not means over patches.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan.config import Config
from cyclegan.errors import ConfigError, CycleGANError

_PATIENCE = timedelta(hours=24)
"""Time for which ranks wait for one that validates; one that dies is noticed at once."""


@dataclass(frozen=True)
class Part:
    """Every `size`th item, beginning with number `rank`."""

    rank: int = 0
    size: int = 1

    def of(self, items: Any) -> Any:
        """Return this part of a sequence or tensor."""
        return items if self.size == 1 else items[self.rank :: self.size]


WHOLE = Part()


@dataclass
class Ranks:
    """This process among those of one training; alone it does nothing.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local: number of this process on its host, which chooses its GPU.
        meeting: address at which the processes meet, for `torch.distributed`.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    meeting: str = "env://"
    _control: dist.ProcessGroup | None = field(default=None, repr=False)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """Return what `torchrun` says about this process; one process alone without it."""
        size = int(environment.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        return cls(int(environment["RANK"]), size, int(environment.get("LOCAL_RANK", "0")))

    @property
    def part(self) -> Part:
        """This rank's part of a batch."""
        return Part(self.rank, self.size)

    @property
    def is_first(self) -> bool:
        """True for the rank that judges, calls callbacks and writes files."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True if there is only one rank."""
        return self.size == 1

    def check(self, config: Config, device: torch.device | None = None) -> None:
        """Refuse a configuration whose training can't be shared out.

        With `device` all processes are on this host and need a GPU each, if it is a GPU.

        Errors: `ConfigError` with the key to change.
        """
        if device is not None and device.type == "cuda" and self.size > torch.cuda.device_count():
            raise ConfigError(
                f"--gpus {self.size}: PyTorch sees {torch.cuda.device_count()} GPUs on this host"
            )
        if config.batch_size % self.size:
            raise ConfigError(
                f"batch_size = {config.batch_size}: {self.size} processes can't share it; give a "
                f"multiple of {self.size}"
            )
        if self.size > 1 and config.norm_D == "batch":
            raise ConfigError(
                "norm_D = batch: the statistics would be those of a part of the batch; set norm_D "
                "to instance or none to train on several GPUs"
            )

    def device(self, name: str) -> str:
        """Return the device of this rank, if the configuration calls it `name`."""
        if self.is_alone or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        if self.local >= torch.cuda.device_count():
            raise ConfigError(
                f"{self.local + 1} processes on this host need as many GPUs, but PyTorch sees "
                f"{torch.cuda.device_count()}; start fewer (--gpus)"
            )
        return f"cuda:{self.local}"

    def join(self, device: torch.device) -> None:
        """Meet the other ranks."""
        if self.is_alone or self._control is not None:
            return
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=self.meeting,
                rank=self.rank,
                world_size=self.size,
            )
        # Decisions travel from host to host: no rank waits for its device to learn of none.
        self._control = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def leave(self) -> None:
        """Leave the others; without any this does nothing."""
        if not self.is_alone and dist.is_initialized():
            self._control = None
            dist.destroy_process_group()

    def require_same(self, what: Mapping[str, Any]) -> None:
        """Refuse to train with ranks that differ in anything of `what`.

        Errors: `ConfigError`, on every rank, that names the first difference.
        """
        if self.is_alone:
            return
        all_of_them: list[Any] = [None] * self.size
        dist.all_gather_object(all_of_them, dict(what), group=self._control)
        for key in what:
            for rank, theirs in enumerate(all_of_them):
                if theirs[key] != all_of_them[0][key]:
                    raise ConfigError(
                        f"the processes of this training differ in {key}: "
                        f"{_short(all_of_them[0][key])} on rank 0, {_short(theirs[key])} on rank "
                        f"{rank}; give all of them the same"
                    )

    def averaged(
        self, parameters: Iterable[Tensor], metrics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Average gradients over all ranks, in place, and return the metrics of the whole batch.

        Both take one collective. Losses are means over the batch, `truth/...` are counts.
        """
        if self.is_alone:
            return dict(metrics)
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = [value.detach().float().reshape(1) for value in metrics.values()]
        flat = torch.cat([*(g.reshape(-1).float() for g in gradients), *values])
        dist.all_reduce(flat)
        flat /= self.size
        sizes = [*(g.numel() for g in gradients), *(1 for _ in values)]
        parts = torch.split(flat, sizes)
        for gradient, part in zip(gradients, parts, strict=False):
            gradient.copy_(part.view_as(gradient))
        means = dict(zip(metrics, parts[len(gradients) :], strict=True))
        counts = {name for name in metrics if name.startswith("truth/")}
        return {n: mean[0] * self.size if n in counts else mean[0] for n, mean in means.items()}

    def agree(self, asked: Any) -> list[Any] | None:
        """Return what every rank asks for, by rank; None if none asks for anything.

        `asked` is None, or anything that can be pickled.
        """
        if self.is_alone:
            return None if asked is None else [asked]
        flag = torch.tensor([0 if asked is None else 1])
        dist.all_reduce(flag, group=self._control)
        if not flag.item():
            return None
        answers: list[Any] = [None] * self.size
        dist.all_gather_object(answers, asked, group=self._control)
        return answers

    def tell(self, what: Any) -> None:
        """Send anything that can be pickled to all other ranks, which wait for it in `told`."""
        dist.broadcast_object_list([what], 0, group=self._control)

    def told(self) -> Any:
        """Return what the first rank tells."""
        answer: list[Any] = [None]
        dist.broadcast_object_list(answer, 0, group=self._control)
        return answer[0]

    def gathered(self, own: Any) -> list[Any] | None:
        """Return what every rank has, by rank, on the first one; None elsewhere."""
        if self.is_alone:
            return None
        answers: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(own, answers, 0, group=self._control)
        return answers


ALONE = Ranks()
"""A training of one process."""


def lost(error: BaseException) -> CycleGANError | None:
    """Return a one-line error if `error` says that another rank is gone, else None."""
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    signs = ("Connection closed by peer", "Connection reset", "Broken pipe", "NCCL", "Socket")
    if not any(sign in text for sign in signs):
        return None
    return CycleGANError(
        "another process of this training has died; start the training again to go on from its "
        "last checkpoint"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:80]}..."


def own_of(states: Sequence[Any] | None, ranks: Ranks) -> Any | None:
    """Return this rank's entry of `states`; None if they come from another number of ranks."""
    return states[ranks.rank] if states and len(states) == ranks.size else None
