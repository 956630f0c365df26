"""Record trainings once, so that `search_replay.py` can play thousands of searches on them.

    cyclegan simulate POOL_DATA/phantom --phantom
    cyclegan simulate POOL_DATA/phantom2x --phantom --scale 2
    cyclegan simulate POOL_DATA/fibres
    OMP_NUM_THREADS=1 python benchmarks/search_pool.py record --data POOL_DATA --jobs 2
    python benchmarks/search_pool.py table

A pool is one data set with `CONFIGURATIONS` configurations, the same in every pool, times two
seeds: scrambled Sobol points of `SPACE`, and as the first one the recipe's own values. Every
training is short (`STEPS`) and narrow; it reports every `EVERY` steps, as the trial of a study
does, and records at each report:

- the score and the parts that it consists of, on all validation patches;
- the same parts on each pair of these patches, which shows how much the score depends on them;
- the true quality (PSNR in dB, SSIM) against the phantom's noise-free truth or, for the real
  volume, the slow scan that shows the same voxels. A search never sees it.

`record` writes one JSON file for every training into `--results`. On another call, also on another
machine, it trains only what neither `--results` nor the table has. `table` writes everything into
two CSV files in `benchmarks/search_pool/`, where `search_replay.py` reads them.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from alternatives_judge import Judge
from machine import work_seconds
from scipy.stats import qmc

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.config import load_yaml, override
from cyclegan.errors import DivergedError
from cyclegan.files import write_text
from cyclegan.score import Score
from cyclegan.validation import ValidationReport

ROOT = Path(__file__).resolve().parent.parent
TABLES = Path(__file__).resolve().parent / "search_pool"
SPACE: Mapping[str, tuple[float, float]] = {
    "lr_g": (1.0e-4, 1.0e-2),
    "lr_d": (2.0e-5, 2.0e-3),
    "lambdas.G_A": (0.03, 10.0),
    "lambdas.C_A": (0.03, 10.0),
    "lambdas.I_A": (0.03, 10.0),
    "lambdas.P_A": (0.3, 30.0),
    "lambdas.P_B": (0.1, 10.0),
}
"""Range of each searched key; a study would search them on a logarithmic scale."""
TIES = {"lambdas.G_B": "lambdas.G_A", "lambdas.C_B": "lambdas.C_A", "lambdas.I_B": "lambdas.I_A"}
"""Keys that take the value of a searched key."""
CONFIGURATIONS = 65
"""Number of configurations: the recipe's own values and 64 Sobol points."""
SEEDS = 2
_BLOCK = 16
STEPS = 600
EVERY = 40
PARTS = (
    "pseudo_pair_gain_db",
    "spectrum_distance_db",
    "sliced_wasserstein",
    "shell_gain",
    "checkerboard",
)
"""Parts of the score by their names in a validation report, in the order of the columns."""
PAIRS = 4
"""Number of pairs of validation patches that are also judged by themselves."""
SHARED: Mapping[str, Any] = {
    "filters": 4,
    "filters_D": 8,
    "steps": STEPS,
    "pretrain_steps": 200,
    "hp_optimizer.enabled": False,
    "validate_every": EVERY,
    "validation_patches": 2 * PAIRS,
    "checkpoint_every": 10 * STEPS,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
}
"""Settings of all trainings that differ from the recipe's."""
MIDDLE = (24, 88, 88)
"""Fine voxels (Z, Y, X) in the middle of the validation volume whose true quality is measured."""
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PoolData:
    """The data set of a pool."""

    folder: str
    recipe: str
    """YAML in `studies/` whose other values all trainings have."""
    patch: int
    """Edge of the training patches of A in voxels."""
    reference: str


POOLS = {
    "phantom": PoolData(
        folder="phantom", recipe="recipe.yaml", patch=24, reference="validate_truth.h5"
    ),
    "phantom_2x": PoolData(
        folder="phantom2x", recipe="recipe_2x.yaml", patch=16, reference="validate_truth.h5"
    ),
    "fibres": PoolData(
        folder="fibres", recipe="recipe.yaml", patch=24, reference="slow_validate.h5"
    ),
}
"""All pools by name."""


@dataclass(frozen=True)
class Member:
    """One training."""

    number: int
    seed: int
    pool: str

    @property
    def configuration(self) -> str:
        """Name of the configuration, the same in every pool."""
        return f"c{self.number:02d}"

    @property
    def name(self) -> str:
        """Name of the record."""
        return f"{self.pool}-{self.configuration}-s{self.seed}"


def configurations() -> list[dict[str, float]]:
    """Return the searched values of all configurations, rounded to four digits."""
    points = qmc.Sobol(len(SPACE), scramble=True, seed=18).random(CONFIGURATIONS - 1)
    low, high = (np.log([ends[i] for ends in SPACE.values()]) for i in (0, 1))
    drawn = np.exp(low + points * (high - low))
    return [
        recipe_values(),
        *({k: float(f"{v:.4g}") for k, v in zip(SPACE, row, strict=True)} for row in drawn),
    ]


def recipe_values() -> dict[str, float]:
    """Return the searched values of the recipe; a term that it lacks gets the lowest weight."""
    config = parse_config(load_yaml(ROOT / "studies" / "recipe.yaml")).to_dict()
    values = {}
    for key, (low, high) in SPACE.items():
        found: Any = config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, Sequence):
            found = found[0] if found else None
        values[key] = min(max(float(found or low), low), high)
    return values


def configuration(member: Member, values: Mapping[str, float], data: Path) -> Config:
    """Return the configuration of one training."""
    pool = POOLS[member.pool]
    tied = {key: values[source] for key, source in TIES.items()}
    changes = {
        "run_name": f"pool-{member.name}",
        "data_A": str(data / pool.folder / "fast.json"),
        "data_B": str(data / pool.folder / "slow.json"),
        "imsize_A": [pool.patch] * 3,
        "seed": member.seed,
    }
    recipe = ROOT / "studies" / pool.recipe
    base = load_yaml(recipe)
    base.pop("imsize_B", None)
    return parse_config(override(base, {**SHARED, **values, **tied, **changes}), source=str(recipe))


class Recorder(Callback):
    """The reports of one training, with the true quality, which needs the folder of the data."""

    def __init__(self, folder: Path, reference: str, scale: int) -> None:
        self.source = _middle(folder / "fast_validate.h5", tuple(n // scale for n in MIDDLE))
        self.judge = Judge(_middle(folder / reference, MIDDLE))
        self.rows: list[Record] = []
        self._pairs: list[Score] = []
        self._seconds, self._resumed = 0.0, 0.0

    def on_train_start(self, trainer: Trainer) -> None:
        """Start the clock, and prepare the scores of the pairs of patches."""
        whole, scale = trainer.validator.score, trainer.config.super_resolution
        patches_A, patches_B = trainer.validator.patches_A, trainer.validator.patches_B
        self._pairs = [
            Score(
                patches_A[2 * k : 2 * k + 2],
                patches_B[2 * k : 2 * k + 2],
                super_resolution=scale,
                seed=k,
                degradation=whole.pairs.degradation,
            )
            for k in range(PAIRS)
        ]
        self._resumed = work_seconds()

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Record a report while the clock stands still; the first validation has no step."""
        self._seconds += work_seconds() - self._resumed
        if trainer.step:
            self.rows.append(self._row(trainer, report))
        self._resumed = work_seconds()

    def _row(self, trainer: Trainer, report: ValidationReport) -> Record:
        generator = trainer.model.mean_G_A
        row: Record = {"step": trainer.step, "seconds": round(self._seconds, 2)}
        row |= {"score": report.score, "gate": report.gate or ""}
        row |= {part: report.metrics.get(f"score/{part}") for part in PARTS}
        for number, score in enumerate(self._pairs):
            found = score(generator)
            row[f"score_{number}"] = found.value
            row |= {f"{part}_{number}": found.parts.get(part) for part in PARTS}
        with torch.no_grad():
            image = generator(torch.from_numpy(self.source)[None, None])[0, 0].float().numpy()
        quality = self.judge(image)
        return row | {"psnr": quality.psnr, "ssim": quality.ssim}


def _middle(path: Path, shape: Sequence[int]) -> np.ndarray:
    with h5py.File(path) as handle:
        starts = [(have - n) // 2 for have, n in zip(handle["data"].shape, shape, strict=True)]
        where = tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))
        return np.ascontiguousarray(handle["data"][where], np.float32)


def trained(member: Member, data: Path, results: Path) -> str:
    """Train one member, write its record, and return a line about it.

    A training that diverges ends with the reports that it made.
    """
    torch.set_num_threads(1)
    values = configurations()[member.number]
    config = configuration(member, values, data)
    pool = POOLS[member.pool]
    recorder = Recorder(data / pool.folder, pool.reference, config.super_resolution)
    ending = ""
    try:
        Trainer(config, [recorder]).fit()
    except DivergedError as error:
        ending = f", diverged: {error}"
    found = {"values": values, "diverged": ending, "rows": recorder.rows}
    write_text(results / f"{member.name}.json", json.dumps(found))
    if not recorder.rows:
        return f"{member.name}{ending}"
    last = recorder.rows[-1]
    shown = ", ".join(f"{key} {last[key]:.2f}" for key in ("seconds", "score", "psnr"))
    return f"{member.name}: {shown}{ending}"


def record(options: argparse.Namespace) -> None:
    """Train what is missing, `--jobs` trainings at a time."""
    options.results.mkdir(parents=True, exist_ok=True)
    known = {(row["pool"], row["configuration"], int(row["seed"])) for row in recorded_rows()}
    missing = [
        member
        for member in members(options.pools, options.seeds)
        if (member.pool, member.configuration, member.seed) not in known
        and not (options.results / f"{member.name}.json").exists()
    ]
    print(f"{len(missing)} trainings are missing", flush=True)
    workers = ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        jobs = [workers.submit(trained, m, options.data, options.results) for m in missing]
        for done, job in enumerate(as_completed(jobs), 1):
            print(f"{done} of {len(missing)}: {job.result()}", flush=True)
    finally:
        workers.shutdown(cancel_futures=True)


def members(pools: Sequence[str], seeds: int = SEEDS) -> list[Member]:
    """Return all trainings of some pools in the order of recording.

    Both seeds of a block of configurations come before the next block: a part is useful, too.
    """
    found = [Member(n, s, p) for n in range(CONFIGURATIONS) for s in range(seeds) for p in pools]
    return sorted(found, key=lambda m: (m.number // _BLOCK, m.seed, m.number, m.pool))


def table(options: argparse.Namespace) -> None:
    """Write the records and what the tables have already as CSV; the order is always the same."""
    rows = {_key(row): row for row in recorded_rows()}
    for member in members(list(POOLS)):
        path = options.results / f"{member.name}.json"
        if path.exists():
            rows |= {_key(row): row for row in _rows_of(member, path)}
    TABLES.mkdir(exist_ok=True)
    for pool in POOLS:
        chosen = [row for key, row in sorted(rows.items()) if row["pool"] == pool]
        if chosen:
            without = [{k: v for k, v in row.items() if k != "pool"} for row in chosen]
            _write_csv(TABLES / f"{pool}.csv", without)
            trainings = len({_key(row)[:3] for row in chosen})
            print(f"{pool}: {trainings} of {CONFIGURATIONS * SEEDS} trainings")
    names = (f"c{number:02d}" for number in range(CONFIGURATIONS))
    values = zip(names, configurations(), strict=True)
    _write_csv(TABLES / "configurations.csv", [{"configuration": n} | v for n, v in values])


def _rows_of(member: Member, path: Path) -> Iterator[Record]:
    found = json.loads(path.read_text(encoding="utf-8"))
    steps = [row["step"] for row in found["rows"]]
    if steps != list(range(EVERY, STEPS + 1, EVERY))[: len(steps)]:
        raise SystemExit(f"{path} is a record of other settings: remove it")
    for row in found["rows"]:
        where = {"pool": member.pool, "configuration": member.configuration, "seed": member.seed}
        yield where | {key: _short(value) for key, value in row.items()}


def _key(row: Record) -> tuple[str, str, int, int]:
    return row["pool"], row["configuration"], int(row["seed"]), int(row["step"])


def _short(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def recorded_rows() -> list[Record]:
    """Return the rows of all tables as text, each with the name of its pool."""
    found: list[Record] = []
    for pool in POOLS:
        path = TABLES / f"{pool}.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as handle:
                found += [{"pool": pool, **row} for row in csv.DictReader(handle)]
    return found


def _write_csv(path: Path, rows: Sequence[Record]) -> None:
    lines = [",".join(rows[0])]
    lines += [",".join(str(value).replace(",", ";") for value in row.values()) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def main() -> None:
    """Record trainings, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("record", "table"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--results", type=Path, default=Path("results/search_pool"))
    parser.add_argument("--pools", nargs="+", choices=list(POOLS), default=list(POOLS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    options = parser.parse_args()
    {"record": record, "table": table}[options.action](options)


if __name__ == "__main__":
    main()
