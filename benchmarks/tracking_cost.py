"""Cost of full tracking for a training.

    cyclegan simulate data/phantom --phantom
    OMP_NUM_THREADS=1 python benchmarks/tracking_cost.py            # 10 minutes on a CPU
    OMP_NUM_THREADS=1 python benchmarks/tracking_cost.py --every 1  # a point for every iteration

Two trainings of the same seed run in turns, one of them with its tracking callback (metrics,
pictures, system metrics; a fresh embedded store in a temporary folder): see `turns.py`. At the end
of a block the benchmark waits for the thread that writes, so that all its work counts. A training
would not wait, so the ratio is an upper bound. The server of a store over HTTP is another process
and does not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import turns
from rollback_cost import SIZES, configuration

from cyclegan import Trainer, parse_config
from cyclegan.files import write_text
from tracking import Store, TrackingCallback


def measure(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Run both trainings in turns and return their times."""
    options.policy = "guard"
    values = configuration(options, size, "off") | {"log_every": options.every}
    trainers = {arm: Trainer(parse_config(values)) for arm in ("off", "on")}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/mlflow.db")
        run = store.create_run("benchmark", size, kind="train", params={}, tags={})
        tracking = TrackingCallback(run)
        trainers["on"].add_callback(tracking)
        found = turns.run(trainers, options.block, options.rounds, {"on": tracking.settle})
        points = sum(len(run.history(name)) for name in store.find_run(run.id).metrics)
    return {
        "size": size,
        "device": str(trainers["on"].device),
        "every": options.every,
        "block": options.block,
        "seconds": found.seconds,
        "points": points / trainers["on"].iteration,
    }


def report(row: dict[str, Any]) -> str:
    """Return a line of the table in Markdown."""
    off, on = turns.by_round(row["seconds"])
    ratio = turns.ratio(on, off)
    cells = (
        *(row["size"], row["device"], str(row["every"]), f"{row['points']:.1f}"),
        f"{1e3 * np.median(off) / (2 * row['block']):.1f}",
        f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure every size, store the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--folder", type=Path, default=Path("results/tracking"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=("small",))
    parser.add_argument("--every", type=int, default=10, help="log_every of the configuration")
    parser.add_argument("--block", type=int, default=100, help="steps, a multiple of 100")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of four blocks, after a first one"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| size | device | log_every | values an iteration | ms a step | on / off (95 %) |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        found = measure(options, size)
        device = found["device"].partition(":")[0]
        name = f"cost-{size}-{device}-every{options.every}.json"
        write_text(options.folder / name, json.dumps(found, indent=1))
        print(report(found), flush=True)


if __name__ == "__main__":
    main()
