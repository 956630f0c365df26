"""Run two trainings in turns in one process to measure the extra cost of the second.

Blocks of steps run in the order off, on, on, off, so that a drift of a shared machine cancels. The
first round does not count. The time is the CPU time of all threads of the process, which other
processes disturb less than wall-clock time; on a GPU it is wall-clock time, with the device
synchronised. The ratio is the median of the rounds' ratios, its 95 % interval a bootstrap over the
rounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from score_statistics import Interval, Numbers, Statistic, bootstrap

from cyclegan import Trainer
from cyclegan.callbacks import Callback
from cyclegan.trainer import TrainResult

ORDER = ("off", "on", "on", "off")
"""Order of a round's blocks."""


@dataclass(frozen=True)
class Found:
    """The measurements by arm, one value per block."""

    seconds: dict[str, list[float]]
    gpu_bytes: dict[str, list[int]]


class Turns(Callback):
    """Let a training go on by one block on request, and time the block."""

    def __init__(self, block: int, settle: Callable[[], object]) -> None:
        self.block, self.settle = block, settle
        self.over = False
        """Set it before the last `go` to end the training."""
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self.gpu_bytes: list[int] = []

    def on_train_start(self, trainer: Trainer) -> None:
        """Wait for the first block."""
        self._wait(trainer)

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, torch.Tensor]) -> None:
        """Hand over at the end of a block; other callbacks' work at its last step counts."""
        if trainer.iteration % self.block:
            return
        self.settle()
        self.seconds.append(_now(trainer.device) - self._started)
        if trainer.device.type == "cuda":
            self.gpu_bytes.append(torch.cuda.max_memory_allocated(trainer.device))
        self.done.release()
        self._wait(trainer)

    def ended(self, future: Future[TrainResult]) -> None:
        """Release whoever waits for the training, which is over or has failed."""
        self.done.release()

    def _wait(self, trainer: Trainer) -> None:
        self.go.acquire()
        if self.over:
            trainer.request_stop("measured")
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)
        self._started = _now(trainer.device)


def _now(device: torch.device) -> float:
    """Return the seconds on the clock that counts, see the module."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def run(
    trainers: Mapping[str, Trainer],
    block: int,
    rounds: int,
    settle: Mapping[str, Callable[[], object]] | None = None,
) -> Found:
    """Train `off` and `on` of `trainers`, which would not end by themselves, in turns.

    `settle`, by arm, is called at the end of a block, and its time counts: it waits for the work
    that threads still have to do.
    """
    settles = {"off": bool, "on": bool} | dict(settle or {})
    turns = {arm: Turns(block, settles[arm]) for arm in trainers}
    for arm, trainer in trainers.items():
        trainer.add_callback(turns[arm])  # last: its block includes the work of the others
    with ThreadPoolExecutor(2) as pool:
        futures = {arm: pool.submit(trainer.fit) for arm, trainer in trainers.items()}
        for arm, future in futures.items():
            future.add_done_callback(turns[arm].ended)
        try:
            for arm in ORDER * (rounds + 1):
                turns[arm].go.release()
                turns[arm].done.acquire()
                if futures[arm].done():  # only at the end, unless it failed
                    futures[arm].result()
        finally:
            for turn in turns.values():
                turn.over = True
                turn.go.release()
    return Found(
        seconds={arm: turn.seconds for arm, turn in turns.items()},
        gpu_bytes={arm: turn.gpu_bytes for arm, turn in turns.items()},
    )


def by_round(seconds: Mapping[str, list[float]]) -> tuple[Numbers, Numbers]:
    """Return the seconds of each round but the first, for `off` and for `on`."""
    off, on = (np.array(seconds[arm]).reshape(-1, 2)[1:].sum(axis=1) for arm in ("off", "on"))
    return off, on


def ratio(on: Numbers, off: Numbers) -> Interval:
    """Return the ratio of the rounds' times, with its interval."""
    return bootstrap(_ratio(on, off), np.arange(len(off)), 5000)


def _ratio(on: Numbers, off: Numbers) -> Statistic:
    return lambda rounds: float(np.median(on[rounds] / off[rounds]))
