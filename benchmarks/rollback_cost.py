"""Cost of the rollback optimizer in time and memory for a healthy training: `rollback.py cost`.

Two trainings of the same seed run in turns, one of them with the optimizer at its default cadence:
see `turns.py`. Snapshots count with the bytes of their tensors in host memory; on a GPU the table
also has its peak memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import turns

from cyclegan import Trainer, parse_config
from cyclegan.files import write_text
from cyclegan.snapshot import tensors_of
from search.rollback import RollbackOptimizer

SIZES = {"small": (8, 32), "moderate": (16, 48)}
"""Filters of the generators (half those of the discriminators), and side of a patch in voxels."""
ARMS = ("off", "on")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this experiment has."""
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--block", type=int, default=100, help="steps, a multiple of 100")
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds of four blocks, after a first one"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--policy", choices=("guard", "original"), default="guard")
    parser.add_argument("--threads", type=int, default=1)


def configuration(options: argparse.Namespace, size: str, arm: str) -> dict[str, Any]:
    """Return the settings of a healthy, endless training with the default validations."""
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
    """Train in turns; return seconds and bytes of every block by arm, and bytes of snapshots."""
    trainers = {arm: Trainer(parse_config(configuration(options, size, arm))) for arm in ARMS}
    optimizer = RollbackOptimizer(trainers["on"].config.hp_optimizer)
    trainers["on"].add_callback(optimizer)
    found = turns.run(trainers, options.block, options.rounds)
    snapshots = unique_storages(optimizer.state_dict())
    return {
        "size": size,
        "device": str(trainers["on"].device),
        "precision": options.precision,
        "policy": options.policy,
        "block": options.block,
        "seconds": found.seconds,
        "gpu_bytes": found.gpu_bytes,
        "snapshot_bytes": sum(snapshots.values()),
        "training_bytes": sum(unique_storages(trainers["on"].model.training_state()).values()),
        "rollbacks": optimizer.rollbacks,
    }


def unique_storages(state: object) -> dict[int, int]:
    """Return the bytes of all tensors in `state` by address; shared memory counts once."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors_of(state)
    }


def measure(options: argparse.Namespace) -> None:
    """Measure every size, store the results and print the table."""
    rows = []
    for size in options.sizes:
        found = run_in_turns(options, size)
        name = f"cost-{size}-{found['device'].partition(':')[0]}-{options.policy}.json"
        write_text(options.folder / name, json.dumps(found, indent=1))
        rows.append(found)
    print(report(rows))


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown, one line per size."""
    names = (
        *("size", "device", "precision", "policy", "ms a step, off", "on / off (95 %)"),
        *("ms more in 100 steps", "snapshots / MB", "in training states", "GPU peak more / MB"),
    )
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for row in rows:
        off, on = turns.by_round(row["seconds"])
        ratio = turns.ratio(on, off)
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
