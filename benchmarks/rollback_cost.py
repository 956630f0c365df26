"""What the rollback optimizer costs a healthy training in time and memory: `rollback.py cost`.

Two trainings of the same seed, one with the optimizer at its default cadence, run in turns in one
process: blocks of steps in the order off, on, on, off, so that a drift of a shared machine cancels.
The first round warms up. Counted is the process's CPU time, which other processes disturb less than
the clock on the wall; on a GPU it is that clock, with the device synchronised. The ratio is the
median of the rounds' ratios, its 95 % interval a bootstrap over the rounds. Snapshots are counted
in bytes of their tensors, in host memory; on a GPU its own peak is shown as well.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from score_statistics import Numbers, Statistic, bootstrap

from cyclegan import Trainer, parse_config
from cyclegan.callbacks import Callback
from cyclegan.files import write_text
from cyclegan.snapshot import tensors_of
from cyclegan.trainer import TrainResult
from search.rollback import RollbackOptimizer

SIZES = {"small": (8, 32), "moderate": (16, 48)}
"""Filters of the generators, half those of the discriminators, and voxels along a patch's axes."""
ORDER = ("off", "on", "on", "off")
"""Of a round's blocks."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that only this experiment has."""
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--block", type=int, default=100, help="steps, a multiple of 100")
    parser.add_argument("--rounds", type=int, default=10, help="of four blocks, after the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--policy", choices=("guard", "original"), default="guard")
    parser.add_argument("--threads", type=int, default=1)


class Turns(Callback):
    """Lets a training go on by one block whenever it is asked to, and times the block."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.over = False
        """Set before the last `go`: the training ends."""
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self.gpu_bytes: list[int] = []

    def on_train_start(self, trainer: Trainer) -> None:
        """Wait for the first block."""
        self._wait(trainer)

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, torch.Tensor]) -> None:
        """Hand over at the end of a block; what the optimizer does at its last step is in it."""
        if trainer.iteration % self.block:
            return
        self.seconds.append(_now(trainer.device) - self._started)
        if trainer.device.type == "cuda":
            self.gpu_bytes.append(torch.cuda.max_memory_allocated(trainer.device))
        self.done.release()
        self._wait(trainer)

    def ended(self, future: Future[TrainResult]) -> None:
        """The training is over, or failed: nobody shall wait for it."""
        self.done.release()

    def _wait(self, trainer: Trainer) -> None:
        self.go.acquire()
        if self.over:
            trainer.request_stop("measured")
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)
        self._started = _now(trainer.device)


def _now(device: torch.device) -> float:
    """Seconds on the clock that counts, see the module."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def configuration(options: argparse.Namespace, size: str, arm: str) -> dict[str, Any]:
    """A healthy training that does not end by itself; validations as often as by default."""
    filters, patch = SIZES[size]
    optimizer = {"enabled": True, "policy": options.policy} if arm == "on" else {"enabled": False}
    return {
        "data_A": str(options.data / "fast.json"),
        "data_B": str(options.data / "slow.json"),
        "filters": filters,
        "filters_D": 2 * filters,
        "layers_D": 2,
        "norm_D": "none",
        "activation": "leaky_relu",
        "init_std": 0.07,
        "imsize_A": [patch] * 3,
        "batch_size": 1,
        "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
        "lambdas": {"G_A": 1, "G_B": 1, "C_A": 1, "C_B": 5, "I_A": 3, "I_B": 3},
        "steps": 10**6,
        "checkpoint_every": 10**6,
        "device": options.device,
        "precision": options.precision,
        "threads": options.threads,
        "hp_optimizer": optimizer,
    }


def run_in_turns(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Seconds and bytes of every block, by arm, and what the snapshots take."""
    turns = {arm: Turns(options.block) for arm in ("off", "on")}
    trainers = {
        arm: Trainer(parse_config(configuration(options, size, arm))) for arm in ("off", "on")
    }
    optimizer = RollbackOptimizer(trainers["on"].config.hp_optimizer)
    trainers["on"].add_callback(optimizer)
    for arm, trainer in trainers.items():
        trainer.add_callback(turns[arm])  # last: the optimizer's work lies within its block
    with ThreadPoolExecutor(2) as pool:
        futures = {arm: pool.submit(trainer.fit) for arm, trainer in trainers.items()}
        for arm, future in futures.items():
            future.add_done_callback(turns[arm].ended)
        try:
            for arm in ORDER * (options.rounds + 1):
                turns[arm].go.release()
                turns[arm].done.acquire()
                if futures[arm].done():  # not before its time, unless it failed
                    futures[arm].result()
        finally:
            for turn in turns.values():
                turn.over = True
                turn.go.release()
    snapshots = unique_storages(optimizer.state_dict())
    return {
        "size": size,
        "device": str(trainers["on"].device),
        "precision": options.precision,
        "policy": options.policy,
        "block": options.block,
        "seconds": {arm: turn.seconds for arm, turn in turns.items()},
        "gpu_bytes": {arm: turn.gpu_bytes for arm, turn in turns.items()},
        "snapshot_bytes": sum(snapshots.values()),
        "training_bytes": sum(unique_storages(trainers["on"].model.training_state()).values()),
        "rollbacks": optimizer.rollbacks,
    }


def unique_storages(state: object) -> dict[int, int]:
    """Address -> bytes of all tensors in `state`; what is shared counts once."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors_of(state)
    }


def measure(options: argparse.Namespace) -> None:
    """Measure every size, store what was found, print the table."""
    rows = []
    for size in options.sizes:
        found = run_in_turns(options, size)
        name = f"cost-{size}-{found['device'].partition(':')[0]}-{options.policy}.json"
        write_text(options.folder / name, json.dumps(found, indent=1))
        rows.append(found)
    print(report(rows))


def report(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown, one line a size."""
    names = (
        *("size", "device", "precision", "policy", "ms a step, off", "on / off (95 %)"),
        *("ms more in 100 steps", "snapshots / MB", "in training states", "GPU peak more / MB"),
    )
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for row in rows:
        # (rounds, two blocks); the first round warms up.
        off, on = (
            np.array(row["seconds"][arm]).reshape(-1, 2)[1:].sum(axis=1) for arm in ("off", "on")
        )
        ratio = bootstrap(_ratio(on, off), np.arange(len(off)), 5000)
        steps = 2 * row["block"]
        cells = [row["size"], row["device"], row["precision"], row["policy"]]
        cells += [
            f"{1e3 * np.median(off) / steps:.1f}",
            f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})",
            f"{1e5 * np.median(on - off) / steps:.0f}",
            f"{row['snapshot_bytes'] / 1e6:.1f}",
            f"{row['snapshot_bytes'] / row['training_bytes']:.1f}",
        ]
        peaks = row["gpu_bytes"]
        more = max(peaks["on"]) - max(peaks["off"]) if peaks["on"] else None
        cells.append("-" if more is None else f"{more / 1e6:.1f}")
        lines.append(" | ".join(cells))
        if row["rollbacks"]:
            lines.append(f"({row['size']}: {row['rollbacks']} rollbacks, their cost is in it)")
    return "\n".join(f"| {line} |" for line in lines)


def _ratio(on: Numbers, off: Numbers) -> Statistic:
    return lambda rounds: float(np.median(on[rounds] / off[rounds]))
