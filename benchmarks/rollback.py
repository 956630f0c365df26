"""Does the rollback optimizer save trainings, and what does it cost those that need no saving?

    cyclegan simulate data/phantom --phantom
    export OMP_NUM_THREADS=1
    python benchmarks/rollback.py faults --workers 2     # an hour on two cores
    python benchmarks/rollback.py natural --workers 2    # 20 minutes
    python benchmarks/rollback.py cost --sizes small     # 15 minutes; moderate is for a GPU
    python benchmarks/rollback.py faults --report        # tables in Markdown, nothing is trained

`faults` injects faults (`rollback_faults.py`) into healthy trainings at an iteration drawn from 40
to 60 % of the run. The twin of a training has the same seed, but no fault and no optimizer. A
training is as good as its twin if the PSNR of its generator against the phantom's truth is at most
0.5 dB lower. All scenarios of an arm and a seed continue one checkpoint from before the fault.

`natural` draws lambdas and rates from a wide space, which includes some that are known to end
badly, and spends the same number of iterations on each draw. A generator is usable if it passes the
gates of a validation and its PSNR is above that of the unprocessed scan.

Both judge the generators of the last step (last) and those that a user gets, of the best validation
(kept). The arms are no optimizer, the original's policy, the guard and, on request, the guard with
corrections. A finished training is a JSON file in `--folder`; on another call the benchmark trains
only what is missing.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rollback_cost
from rollback_faults import FAULTS, drawn, inject
from rollback_tables import report_faults, report_natural
from score_truth import Truth, generator_of

from cyclegan import Trainer, checkpoints, parse_config
from cyclegan.callbacks import Callback
from cyclegan.files import write_text
from cyclegan.generator import save_generators
from cyclegan.keep_best import KeepBest
from search.rollback import RollbackOptimizer

ARMS = ("off", "original", "guard", "corrections")
BUDGET = "all iterations are spent"
CONFIG: dict[str, Any] = {
    "filters": 4,
    "activation": "leaky_relu",
    "filters_D": 8,
    "layers_D": 2,
    "norm_D": "none",
    "init_std": 0.1,
    "imsize_A": [20, 20, 20],  # the smallest that a CPU computes in bf16
    "batch_size": 1,
    "ema_decay": 0.99,  # 0.999 would remember half of so short a training
    "validate_every": 100,
    "validation_patches": 8,
    "threads": 1,
    "device": "cpu",
    "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
    "lambdas": {"G_A": 1, "G_B": 1, "D_A": 1, "D_B": 1, "C_A": 0.5, "C_B": 5, "I_A": 3, "I_B": 3},
    "lr_g": 2e-3,
    "lr_d": 5e-4,
}


@dataclass(frozen=True)
class Job:
    """One training."""

    experiment: str
    """`faults` or `natural`."""
    scenario: str
    """Name of the fault; `draw` for natural draws, whose seed is their number."""
    arm: str
    seed: int
    length: int
    """Number of steps, or of iterations for a natural draw."""
    precision: str
    data: Path
    folder: Path

    @property
    def record(self) -> Path:
        """File of the result."""
        return self.folder / f"{self.scenario}-{self.arm}-{self.seed}.json"

    @property
    def start(self) -> Path:
        """Checkpoint before the fault; the best generators until then lie beside it."""
        return self.folder / "starts" / f"{self.arm}-{self.seed}.pt"

    @property
    def at(self) -> int:
        """Number of iterations before the fault."""
        share = np.random.default_rng((self.seed, 46)).uniform(0.4, 0.6)
        return int(share * self.length)


class Spend(Callback):
    """End a training when it has spent its iterations, rolled back or not."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def on_step_end(self, trainer: Trainer, metrics: object) -> None:
        """Request the stop."""
        if trainer.iteration == self.iterations:
            trainer.request_stop(BUDGET)


def configuration(job: Job) -> dict[str, Any]:
    """Return the configuration of a job."""
    corrections = job.arm == "corrections"
    policy = "guard" if corrections else job.arm
    on = {"enabled": True, "policy": policy, "corrections": corrections, "seed": job.seed}
    values = {
        "data_A": str(job.data / "fast.json"),
        "data_B": str(job.data / "slow.json"),
        "seed": job.seed,
        "steps": job.length,
        "checkpoint_every": 10 * job.length,
        "precision": job.precision,
        "hp_optimizer": on if job.arm != "off" else {"enabled": False},
    }
    return CONFIG | values | (drawn(job.seed) if job.experiment == "natural" else {})


def train(job: Job) -> str:
    """Train, measure against the truth and write the record; return one line on the result."""
    with tempfile.TemporaryDirectory() as folder:
        kept, last = Path(folder) / "kept.pt", Path(folder) / "last.pt"
        config = parse_config(configuration(job))
        keeper, optimizer = KeepBest(kept), RollbackOptimizer(config.hp_optimizer)
        trainer = Trainer(config, [keeper, optimizer] if job.arm != "off" else [keeper])
        resume = None
        if job.experiment == "natural":
            trainer.add_callback(Spend(job.length))
        elif job.scenario == "healthy":
            inject(trainer, "healthy", job.at, lambda: _save_start(trainer, job, kept))
        else:
            inject(trainer, job.scenario, job.at)
            if job.start.is_file():  # there is none if the healthy training gave up before it
                resume = job.start
                shutil.copyfile(job.start.with_suffix(".kept"), kept)
        started = time.perf_counter()
        result = trainer.fit(resume)
        seconds = time.perf_counter() - started
        save_generators(trainer.model, last, step=trainer.step)
        # Validate again: a training that gave up is back at a snapshot.
        gate = trainer.validator(trainer.model, step=result.step, iteration=result.iteration).gate
        truth = truth_of_data(job.data)
        record: dict[str, Any] = asdict(job) | asdict(result)
        for name, path in (("last", last), ("kept", kept)):
            record[name] = truth(generator_of(path, "A", job.precision))
    record["last"]["gate"] = gate
    record["kept"]["gate"] = "no validation was usable" if keeper.score is None else None
    record |= {"input": unprocessed(truth), "at": job.at, "kept_step": keeper.step}
    record |= {"rollbacks": optimizer.rollbacks, "seconds": seconds}
    record["gave_up"] = result.outcome == "stopped" and result.reason != BUDGET
    write_text(job.record, json.dumps(record, indent=1, default=str))
    psnr = ", ".join(f"{record[name]['psnr']:.2f} dB {name}" for name in ("last", "kept"))
    spent = f"{result.iteration} iterations, {optimizer.rollbacks} rollbacks, {seconds:.0f} s"
    return f"{job.record.stem}: {result.outcome}, {psnr}; {spent}"


def _save_start(trainer: Trainer, job: Job, kept: Path) -> None:
    job.start.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_file():  # no generator was usable yet
        save_generators(trainer.model, kept, step=trainer.step)
    shutil.copyfile(kept, job.start.with_suffix(".kept"))
    checkpoints.save(trainer.state_dict(), job.start)


truth_of_data = functools.cache(Truth)
unprocessed = functools.cache(lambda truth: truth.of(truth.source))


def jobs_of(options: argparse.Namespace, arms: Sequence[str]) -> list[Job]:
    """Return the jobs of an experiment, healthy ones first: the others continue from them."""
    faults = options.experiment == "faults"
    length = options.steps if faults else options.iterations
    count = options.seeds if faults else options.draws
    folder = options.folder / f"{options.experiment}-{length}"
    common = (length, options.precision, options.data, folder)
    return [
        Job(options.experiment, scenario, arm, seed, *common)
        for scenario in (FAULTS if faults else ("draw",))
        for seed in range(options.first, options.first + count)
        for arm in arms
    ]


def run(jobs: list[Job], workers: int, anew: bool) -> None:
    """Train what is missing, or all if `anew`, `workers` at a time; print one line on each."""
    for path in [p for job in jobs for p in (job.record, job.start)] if anew else []:
        path.unlink(missing_ok=True)
    missing = [job for job in jobs if not job.record.is_file()]
    if workers == 1:
        for job in missing:
            print(train(job), flush=True)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for line in pool.imap_unordered(train, missing):
            print(line, flush=True)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="experiment", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, default=Path("data/phantom"))
    common.add_argument("--folder", type=Path, default=Path("results/rollback"))
    trainings = argparse.ArgumentParser(add_help=False, parents=[common])
    trainings.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:3])
    trainings.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    trainings.add_argument("--workers", type=int, default=1, help="trainings at a time")
    trainings.add_argument(
        "--first", type=int, default=0, help="first seed or draw; choose others to confirm"
    )
    trainings.add_argument("--report", action="store_true", help="print the tables only")
    trainings.add_argument("--clean", action="store_true", help="delete the results of these arms")
    faults = commands.add_parser("faults", parents=[trainings], help="inject faults")
    faults.add_argument("--seeds", type=int, default=5)
    faults.add_argument("--steps", type=int, default=2000)
    natural = commands.add_parser(
        "natural", parents=[trainings], help="draw random hyperparameters"
    )
    natural.add_argument("--draws", type=int, default=20)
    natural.add_argument("--iterations", type=int, default=1000)
    rollback_cost.add_options(
        commands.add_parser("cost", parents=[common], help="measure time and memory")
    )
    options = parser.parse_args()
    options.data = options.data.resolve()
    if options.experiment == "cost":
        rollback_cost.measure(options)
        return
    if not options.report:
        run(jobs_of(options, options.arms), options.workers, options.clean)
    found = [job.record for job in jobs_of(options, ARMS) if job.record.is_file()]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    report = report_faults if options.experiment == "faults" else report_natural
    print(report(records))


if __name__ == "__main__":
    main()
