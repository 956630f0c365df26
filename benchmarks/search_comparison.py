"""Compare the study that you get by default with a plain grid and with random search, live.

    OMP_NUM_THREADS=1 python benchmarks/search_comparison.py --data DATA --folder FOLDER

Three ways of searching spend the same optimisation steps on each data set, with several seeds
(first weights, patches, sampler):

    grid     every combination of two values of four keys, the others as in the recipe; the best
             score wins
    random   random values of all keys, after the recipe's own; the best score wins
    study    a study that names neither sampler nor pruner

All have the ranges of `search_pool.py`. The data are two phantoms on which nothing was chosen, at
1x and 2x (see `alternatives_sets.py`), and no curve of them was recorded. The report does not use
the score, which the searches see, but the truth, which they never see: PSNR and SSIM against the
noise-free phantom. A grid and random search choose the trial with the highest score, a study the
one that `promote` takes. Three things are told of the choice:

    own      the quality of that trial's own generator
    again    the mean quality of three trainings with the trial's values and new seeds, the same
             ones for all searches: what the values are worth for a training to come, without the
             luck of a seed
    steps    optimisation steps until the choice's own generator is as good as that of random search
             in the end, with the same seed

Every search is a real study in `--folder`. What it found is added to search_comparison.csv, beside
this script, so that on another call, also on another machine, the benchmark goes on with the
searches that are missing there.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from alternatives_judge import Figures, Judge
from alternatives_sets import SETS, Scans, make
from score_truth import generator_of
from search_pool import SHARED, SPACE, TIES, recipe_values

from cyclegan.callbacks import Callback
from cyclegan.config import load_yaml, override, parse_config
from cyclegan.files import write_text
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".csv")
WAYS = ("grid", "random", "study")
RECIPES = {"phantom_1x": "recipe.yaml", "phantom_2x": "recipe_2x.yaml"}
PATCHES = {"phantom_1x": 16, "phantom_2x": 16}
"""Edge of the training patches of A in voxels."""
STEPS, EVERY, FIRST = 600, 40, 160
"""Steps of a whole trial, between reports, and before the first judgement."""
ON_GRID = ("lr_g", "lr_d", "lambdas.G_A", "lambdas.C_A")
"""The keys of the grid: two values each, at a fifth and four fifths of the range."""
BUDGET = 2 ** len(ON_GRID) * STEPS
"""Optimisation steps of a search: those of the grid."""
NEW_SEEDS = (101, 102, 103)
"""Seeds with which the chosen values are trained again; no search uses them."""


class Choice(NamedTuple):
    """The trial that a search would promote after some optimisation steps."""

    steps: int
    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The findings of one search."""

    trials: int
    complete: int
    choices: Sequence[Choice]
    """The last one is the final choice."""
    again: Sequence[float]
    """PSNR of trainings with the chosen values, one for each of `NEW_SEEDS`."""


@dataclass(frozen=True)
class Search:
    """One way of searching, on one data set, with one seed."""

    data: Scans
    way: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return f"{self.data.data.name}-{self.way}-{self.seed}"

    def definition(self) -> dict[str, Any]:
        """Return the definition of the study, as in a YAML file."""
        name = self.data.data.name
        base = load_yaml(ROOT / "studies" / RECIPES[name])
        base.pop("imsize_B", None)
        tied = {key: recipe_values()[source] for key, source in TIES.items()}
        changes = {
            **{key: value for key, value in SHARED.items() if key not in ("steps",)},
            **recipe_values(),
            **tied,
            "steps": STEPS,
            "validate_every": EVERY,
            "data_A": str(self.data.folder / "fast.json"),
            "data_B": str(self.data.folder / "slow.json"),
            "imsize_A": [PATCHES[name]] * 3,
            "seed": self.seed,
            "keep_checkpoints": 1,
            "memory_budget_gb": 1.0,
        }
        searched = ON_GRID if self.way == "grid" else tuple(SPACE)
        definition = {
            "name": self.name,
            "config": override(base, changes),
            "space": {key: self._range(key) for key in searched},
            "ties": {key: source for key, source in TIES.items() if source in searched},
            "steps": STEPS,
            "report_every": EVERY,
            "checkpoints": {"keep_trials": 1},
        }
        settings: dict[str, Any]
        if self.way == "study":
            settings = {"sampler": {"seed": self.seed}, "pruner": {"prune_after": FIRST}}
        else:
            settings = {
                "sampler": {"name": self.way, "seed": self.seed},
                "pruner": {"name": "none", "prune_after": FIRST},
            }
        if self.way != "grid":
            settings |= {"trials": 500, "stop": {"iterations": BUDGET}}
        return definition | settings

    def _range(self, key: str) -> dict[str, Any]:
        low, high = SPACE[key]
        if self.way == "grid":
            values = [float(f"{low * (high / low) ** share:.3g}") for share in (0.2, 0.8)]
            return {"type": "categorical", "choices": values}
        return {"type": "float", "low": low, "high": high, "log": True}

    def run(self, folder: Path) -> Found:
        """Run or finish the study, and judge what it would promote along the way."""
        project = folder / self.name
        (project / "studies").mkdir(parents=True, exist_ok=True)
        (project / "mlruns").mkdir(exist_ok=True)
        path = project / "studies" / "search.yaml"
        path.write_text(yaml.safe_dump(self.definition()), encoding="utf-8")
        line = [sys.executable, "-P", "-m", "workbench.cli", "study", "run", str(path.resolve())]
        inherited = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
        inherited.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            [*line, "--json", "--quiet"],
            cwd=project,
            env=inherited,
            stdout=subprocess.PIPE,
            check=True,
        )
        result = json.loads(done.stdout)
        trials: list[dict[str, Any]] = result["trials"]
        for trial in trials:
            trial |= self._truth(project / "results" / self.name / f"trial-{trial['number']:03d}")
        last = result["promotes"] if self.way == "study" else result["best"]["number"]
        chosen = project / "results" / self.name / f"trial-{last:03d}" / "config.yaml"
        return Found(
            trials=len(trials),
            complete=sum(trial["state"] == "complete" for trial in trials),
            choices=choices(trials, last),
            again=[self._trained_again(load_yaml(chosen), seed) for seed in NEW_SEEDS],
        )

    def _trained_again(self, values: Mapping[str, Any], seed: int) -> float:
        """Train a configuration with another seed; return the PSNR of the generator it keeps."""
        torch.set_num_threads(1)
        kept = _Kept(self)
        Trainer(parse_config({**values, "seed": seed}), [kept]).fit()
        return kept.psnr

    def quality(self, network: torch.nn.Module) -> Figures:
        """Return the true quality of a generator."""
        with torch.no_grad():
            image = network(torch.from_numpy(self.data.source)[None, None])[0, 0].float().numpy()
        return Judge(self.data.reference)(image)

    def _truth(self, folder: Path) -> dict[str, float]:
        """Return PSNR and SSIM of a trial's best generator, from the cache if they are there."""
        cache, stored = folder / "truth.json", folder / "save" / "generator.pt"
        if not cache.is_file() and stored.is_file():
            found = self.quality(generator_of(stored, precision="fp32"))
            cache.write_text(json.dumps({"psnr": found.psnr, "ssim": found.ssim}))
        known: dict[str, float] = json.loads(cache.read_text()) if cache.is_file() else {}
        return known


class _Kept(Callback):
    """The true quality of the generator with the best score since the first judgement."""

    def __init__(self, search: Search) -> None:
        self.search, self.score, self.psnr = search, -np.inf, np.nan

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Judge the generator if it is the best so far."""
        if trainer.step >= FIRST and report.score > self.score:
            self.score = report.score
            self.psnr = self.search.quality(trainer.model.mean_G_A).psnr


def choices(trials: Sequence[dict[str, Any]], last: int) -> list[Choice]:
    """Return what a search has chosen when its best score rises, and in the end: trial `last`.

    Trials are taken in the order of their numbers. The steps of those that were paused count from
    the beginning, so the curve of a study with pauses is a little late rather than early.
    """
    spent, best, points = 0, -np.inf, []
    for trial in trials:
        spent += trial["iteration"]
        if trial["state"] == "complete" and trial["score"] > best:
            best = trial["score"]
            points.append(Choice(spent, trial["psnr"], trial["ssim"]))
    chosen = next(trial for trial in trials if trial["number"] == last)
    return [*points, Choice(spent, chosen["psnr"], chosen["ssim"])]


def steps_to(points: Sequence[Choice], psnr: float) -> float:
    """Return the steps until the choice has that PSNR; infinite if it never has."""
    return next((float(c.steps) for c in points if c.psnr >= psnr), float("inf"))


# -- The table of what all searches have found -------------------------------------------------


def read_table(path: Path = TABLE) -> dict[str, Found]:
    """Return what each search has found, by its name."""
    if not path.exists():
        return {}
    found = {}
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            points = [point.split() for point in row["choices"].split(";")]
            found[row["search"]] = Found(
                trials=int(row["trials"]),
                complete=int(row["complete"]),
                choices=[Choice(int(s), float(psnr), float(ssim)) for s, psnr, ssim in points],
                again=[float(psnr) for psnr in row["again"].split()],
            )
    return found


def write_table(found: Mapping[str, Found], path: Path = TABLE) -> None:
    """Write what each search has found."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["search", "trials", "complete", "choices", "again"])
    for name, one in sorted(found.items()):
        points = ";".join(f"{c.steps} {c.psnr:.3f} {c.ssim:.4f}" for c in one.choices)
        again = " ".join(f"{psnr:.3f}" for psnr in one.again)
        writer.writerow([name, one.trials, one.complete, points, again])
    write_text(path, buffer.getvalue())


def main() -> None:
    """Run all searches, print the tables, write the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("results/alternatives"))
    parser.add_argument("--folder", type=Path, default=Path("results/search_comparison"))
    parser.add_argument("--sets", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    found = read_table()
    for name in options.sets:
        scans = make(SETS[name], options.data.resolve() / name, print)
        for search in _searches(scans, options):
            if search.name not in found or not found[search.name].again:
                one = search.run(options.folder)
                write_table(found := read_table() | {search.name: one})
            print(_line(search, found[search.name]), flush=True)
        report(name, _searches(scans, options), found)


def _searches(scans: Scans, options: argparse.Namespace) -> list[Search]:
    return [Search(scans, way, seed) for seed in options.seeds for way in options.ways]


def _line(search: Search, found: Found) -> str:
    last = found.choices[-1]
    return (
        f"{search.name}: {found.trials} trials, {found.complete} complete, {last.steps:,} steps:"
        f" PSNR {last.psnr:.2f} dB, SSIM {last.ssim:.3f}, again {np.mean(found.again):.2f} dB"
    )


def report(name: str, searches: Sequence[Search], found: Mapping[str, Found]) -> None:
    """Print the table of a data set."""
    by_way: dict[str, dict[int, Found]] = {}
    for search in searches:
        by_way.setdefault(search.way, {})[search.seed] = found[search.name]
    random = by_way.get("random", {})
    print(f"\n{name}, {BUDGET:,} steps each, PSNR in dB")
    print("way      result  by seed               mean   worst  steps to random's result")
    for way, by_seed in by_way.items():
        own = [one.choices[-1].psnr for one in by_seed.values()]
        needed = [
            steps_to(one.choices, random[seed].choices[-1].psnr)
            for seed, one in by_seed.items()
            if seed in random
        ]
        shown = ", ".join("never" if np.isinf(n) else f"{n:,.0f}" for n in needed)
        print(f"{way:8s} own     {_row(own)}  {shown}")
        print(f"{'':8s} again   {_row([float(np.mean(one.again)) for one in by_seed.values()])}")


def _row(psnr: Sequence[float]) -> str:
    each = ", ".join(f"{value:.2f}" for value in psnr)
    return f"{each:20s} {np.mean(psnr):6.2f}  {np.min(psnr):6.2f}"


if __name__ == "__main__":
    main()
