"""Compare a study with a plain grid and with random search, for the same iterations.

    cyclegan simulate data/phantom --phantom
    OMP_NUM_THREADS=1 python benchmarks/search_comparison.py --workers 2

Three recipes search the same space and spend the same number of optimisation steps:

    grid     every combination of a grid, each broken off after --judge steps; the best score wins
    random   random values, each trial trained for --judge steps; the best score wins
    study    TPE and successive halving: first rung at half of --judge, survivors go on

Each is repeated with several seeds (first weights, patches, sampler). The report does not use the
score, which the searches see, but the truth, which they never see: PSNR and SSIM of the chosen
trial's generator against the noise-free phantom of the validation volume, as a function of the
iterations spent; and the iterations that each recipe needs until its choice is as good as the
grid's last one of the same seed. Every search is a real study in `--folder`; on another call the
benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from score_truth import Truth, generator_of

RECIPES = ("grid", "random", "study")
ROOT = Path(__file__).resolve().parent.parent
CONFIG: dict[str, Any] = {
    "filters": 8,
    "activation": "leaky_relu",
    "filters_D": 16,
    "layers_D": 2,
    "norm_D": "none",
    "init_std": 0.07,
    "imsize_A": [32, 32, 32],
    "batch_size": 1,
    "checkpoint_every": 1000,
    "keep_checkpoints": 1,
    "threads": 1,
    "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
    "lambdas": {"G_A": 1, "G_B": 1, "D_A": 1, "D_B": 1, "C_A": 0.5, "C_B": 5, "I_A": 3, "I_B": 3},
}
SPACE = {
    "lr_g": (2.0e-4, 8.0e-3, 3),
    "lr_d": (5.0e-5, 2.0e-3, 2),
    "lambdas.C_B": (0.5, 20.0, 2),
    "lambdas.I_A": (0.3, 10.0, 2),
}
"""Range and grid points by key, logarithmic; `lambdas.I_B` follows `lambdas.I_A`."""


@dataclass(frozen=True)
class Plan:
    """The folders, data and lengths of the searches."""

    folder: Path
    data: Path
    judge: int
    budget: int
    """Iterations of one search."""

    def definition(self, recipe: str, seed: int) -> dict[str, Any]:
        """Return the definition of the study of one recipe and seed, as in a YAML file."""
        grid = recipe == "grid"
        space = {
            key: {"type": "float", "low": low, "high": high, "log": True}
            | ({"points": points} if grid else {})
            for key, (low, high, points) in SPACE.items()
        }
        halving = {"name": "successive_halving", "prune_after": self.judge // 2}
        data = {
            f"data_{d}": str(self.data / f"{n}.json") for d, n in (("A", "fast"), ("B", "slow"))
        }
        definition = {
            "name": f"{recipe}-{seed}",
            "config": CONFIG | data | {"seed": seed},
            "space": space,
            "ties": {"lambdas.I_B": "lambdas.I_A"},
            "enqueue_defaults": False,
            "sampler": {
                "name": {"grid": "grid", "random": "random", "study": "tpe"}[recipe],
                "seed": seed,
                **({"startup_trials": 8} if recipe == "study" else {}),
            },
            "pruner": halving if recipe == "study" else halving | {"name": "none"},
            "steps": 2 * self.judge if recipe == "study" else self.judge,
            "report_every": self.judge // 2,
            "stop": {"iterations": self.budget},
            "checkpoints": {"keep_trials": 1},
        }
        return definition if grid else definition | {"trials": 1000}


def search(plan: Plan, recipe: str, seed: int, workers: int) -> list[dict[str, Any]]:
    """Run or finish one search; return its trials in the order of their end, with the truth."""
    folder = plan.folder / f"{recipe}-{seed}"
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    (folder / "mlruns").mkdir(exist_ok=True)
    path = folder / "studies" / "search.yaml"
    path.write_text(yaml.safe_dump(plan.definition(recipe, seed)), encoding="utf-8")
    line = [sys.executable, "-m", "workbench.cli", "study", "run", str(path.resolve()), "--json"]
    line += ["--workers", str(workers), "--quiet"]
    inherited = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    inherited.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(line, cwd=folder, env=inherited, stdout=subprocess.PIPE, check=True)
    trials: list[dict[str, Any]] = json.loads(done.stdout)["trials"]
    truth = Truth(plan.data)
    for trial in trials:
        generator = folder / "results" / f"{recipe}-{seed}" / f"trial-{trial['number']:03d}"
        cache = generator / "truth.json"
        if not cache.is_file():
            cache.write_text(json.dumps(truth(generator_of(generator / "save" / "generator.pt"))))
        trial |= json.loads(cache.read_text())
    for litter in folder.glob("results/*/*/save/checkpoint*.pt"):
        litter.unlink()
    return trials


def curve(trials: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """Return (iterations spent, PSNR, SSIM) of the best score so far, after each trial.

    A pruned trial can also be the best so far: its generator is stored.
    """
    spent, best, points = 0, -np.inf, []
    chosen: dict[str, Any] = {}
    for trial in trials:
        spent += trial["iteration"]
        if trial["score"] is not None and trial["score"] > best:
            best, chosen = trial["score"], trial
        if chosen:
            points.append((spent, chosen["psnr"], chosen["ssim"]))
    return points


def iterations_to(points: Sequence[tuple[int, float, float]], psnr: float) -> float:
    """Return the iterations until the choice has that PSNR; infinite if it never has."""
    return next((float(spent) for spent, reached, _ in points if reached >= psnr), float("inf"))


def main() -> None:
    """Run all searches, print the table, write the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--folder", type=Path, default=Path("results/search_comparison"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--judge", type=int, default=100, help="steps of a trial of the grid")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clean", action="store_true", help="delete all results and begin anew")
    options = parser.parse_args()
    if options.clean:
        shutil.rmtree(options.folder, ignore_errors=True)
    cells = int(np.prod([points for _, _, points in SPACE.values()]))
    plan = Plan(options.folder, options.data.resolve(), options.judge, cells * options.judge)
    print(f"{cells} combinations of the grid x {plan.judge} steps = {plan.budget} iterations each")
    found: dict[str, list[Any]] = {recipe: [] for recipe in RECIPES}
    for seed in range(options.seeds):
        for recipe in RECIPES:
            trials = search(plan, recipe, seed, options.workers)
            points = curve(trials)
            found[recipe].append(points)
            spent, psnr, ssim = points[-1]
            print(
                f"seed {seed} {recipe:7s} {len(trials):3d} trials, {spent:5d} iterations: "
                f"chosen PSNR {psnr:.2f} dB, SSIM {ssim:.3f}",
                flush=True,
            )
    report(found, plan)


def report(found: dict[str, list[Any]], plan: Plan) -> None:
    """Print the table over the seeds, and write the curves as JSON."""
    goals = [points[-1][1] for points in found["grid"]]
    print(f"\n{'':8s} {'PSNR / dB':>22s} {'SSIM':>18s} {'iterations to the grid choice':>32s}")
    for recipe, curves in found.items():
        psnr, ssim = (np.array([points[-1][i] for points in curves]) for i in (1, 2))
        needed = [iterations_to(p, goal) for p, goal in zip(curves, goals, strict=True)]
        shown = ", ".join("never" if np.isinf(n) else f"{n:.0f}" for n in needed)
        print(
            f"{recipe:8s} {psnr.mean():12.2f} +- {psnr.std(ddof=1):5.2f} "
            f"{ssim.mean():10.3f} +- {ssim.std(ddof=1):.3f}   {shown}"
        )
    text = json.dumps({"judge": plan.judge, "budget": plan.budget, "curves": found}, indent=1)
    (plan.folder / "curves.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
