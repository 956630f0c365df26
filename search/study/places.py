"""Share out the GPUs and the CPU threads of this host among the workers of a study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cyclegan import slurm
from cyclegan.errors import UsageError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Host:
    """The part of this machine that the workers may use.

    `gpus` are names of GPUs as `CUDA_VISIBLE_DEVICES` has them: numbers, or names that begin with
    `GPU-` or `MIG-`. `cores` are CPU cores; `threads` is `OMP_NUM_THREADS` if the user set it.
    """

    gpus: Sequence[str] = ()
    cores: int = 1
    threads: str | None = None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Host:
        """Return what this process may use, within a SLURM job its part."""
        import torch

        allowed = getattr(os, "sched_getaffinity", None)
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        return cls(
            gpus=visible_gpus(environment.get(_VISIBLE), torch.cuda.device_count()),
            cores=min(cores, slurm.cpus(environment) or cores),
            threads=environment.get("OMP_NUM_THREADS"),
        )


def visible_gpus(given: str | None, count: int) -> list[str]:
    """Return the names of the GPUs that processes can use.

    Args:
        given: the value of `CUDA_VISIBLE_DEVICES`; None if it is not set.
        count: number of devices that PyTorch sees.
    """
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    if not count or not names:
        return [str(number) for number in range(count)]
    if names[0].startswith("MIG-"):
        # CUDA shows a process only one of them, but each process may have its own.
        return [name for name in names if name.startswith("MIG-")]
    return names[:count]  # CUDA ignores what follows a name that it does not know


def places(count: int, device: str, host: Host) -> list[dict[str, str]]:
    """Return the environment of each of `count` workers: its GPU, and its share of the threads.

    `device` is the configuration's. `auto` and `cuda` give the GPUs out in turn; with `cuda:N` all
    workers stay on that one.
    """
    threads = host.threads or str(max(1, host.cores // count))
    shared = {"OMP_NUM_THREADS": threads, slurm.WORKERS: str(count)}
    if device not in ("auto", "cuda") or not host.gpus:
        return [dict(shared) for _ in range(count)]
    return [shared | {_VISIBLE: host.gpus[n % len(host.gpus)]} for n in range(count)]


def how_shared(count: int, device: str, host: Host) -> str | None:
    """Return a line about workers that share a GPU; None if none do."""
    if count == 1 or not host.gpus:
        return None
    if device.startswith("cuda:"):
        return f"{count} workers share one GPU, device = {device}; device = cuda would use all"
    if device not in ("auto", "cuda") or count <= len(host.gpus):
        return None
    names = ", ".join(host.gpus)
    if len(host.gpus) == 1:
        return f"{count} workers share one GPU ({names})"
    return f"{count} workers share {len(host.gpus)} GPUs ({names}) in turn"


def refuse_ranks(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run a study in several processes that torchrun started: each would run it all.

    Errors: `UsageError` with the way out.
    """
    size = environment.get("WORLD_SIZE", "1")
    if size != "1":
        raise UsageError(
            f"WORLD_SIZE = {size}: a study can't run under torchrun, because each of its trials "
            f"trains in one process; start it without torchrun, with --workers {size} to use as "
            "many GPUs"
        )
