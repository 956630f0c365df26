"""Does a training get better the longer it lasts, and what does a key of the recipe change?

    cyclegan simulate data/phantom --phantom
    python benchmarks/training_curve.py run recipe --set filters=8 --seeds 0 1 2 3 4
    python benchmarks/training_curve.py run "R1 0.1" --set filters=8 penalty_R1=0.1 --seeds 0 1
    python benchmarks/training_curve.py table

`run` trains `studies/recipe.yaml`, with some keys changed. At every validation it records the score
and measures the mean generators against the phantom's noise-free truth (`score_truth.py`), which
the score does not know. Each training is a file RESULTS/NAME-sSEED.json; `run` skips existing ones.
`table` prints one line per name: quality at the end, the deepest fall below an earlier best, and
the parts of the score. With several seeds the figures are means, and the deepest fall is that of
the worst seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from machine import work_seconds
from score_truth import Truth

from cyclegan import Callback, Trainer, parse_config
from cyclegan.config import load_yaml, override
from cyclegan.errors import DivergedError
from cyclegan.files import write_text
from cyclegan.validation import ValidationReport
from search.rollback import RollbackOptimizer

RECIPE = Path(__file__).resolve().parent.parent / "studies" / "recipe.yaml"
VALIDATIONS = 12
"""Number of validations of a training."""
PARTS = ("spectrum_distance_db", "sliced_wasserstein", "checkerboard", "noise_in_cycle_db")
Record = dict[str, Any]


class Curve(Callback):
    """The true quality at every validation, and the seconds that the training itself took."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.rows: list[Record] = []
        self.seconds, self.resumed = 0.0, 0.0

    def on_train_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self.resumed = work_seconds()

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Measure the generators while the clock stands still."""
        self.seconds += work_seconds() - self.resumed
        model = trainer.model

        def apply(patches: torch.Tensor) -> torch.Tensor:
            with model.autocast():
                return model.mean_G_A(patches).float()

        parts = {name: value for name, value in report.metrics.items() if "score/" in name}
        row = {"step": trainer.step, "seconds": self.seconds, "score": report.score}
        self.rows.append({**row, **self.truth(apply), "parts": parts})
        self.resumed = work_seconds()


def run(options: argparse.Namespace) -> None:
    """Train what is missing, one seed after the other."""
    truth = Truth(options.data)
    for seed in options.seeds:
        path = options.results / f"{options.name.replace(' ', '_')}-s{seed}.json"
        if path.exists():
            continue
        record = trained(options, seed, truth)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=1))
        print(line_of(options.name, [record]), flush=True)


def trained(options: argparse.Namespace, seed: int, truth: Truth) -> Record:
    """Train once and return the record; `diverged` has the reason of an early end."""
    changes = {
        "data_A": str(options.data / "fast.json"),
        "data_B": str(options.data / "slow.json"),
        "threads": 1,
        "validate_every": options.steps // VALIDATIONS,
        "steps": options.steps,
        "pretrain_steps": int(0.75 * options.steps),
        "seed": seed,
        **options.set,
    }
    config = parse_config(override(load_yaml(options.recipe), changes))
    curve = Curve(truth)
    callbacks: list[Callback] = [curve]
    record: Record = {"name": options.name, "seed": seed, "set": options.set}
    with tempfile.TemporaryDirectory() as folder:
        if config.hp_optimizer.enabled:
            callbacks.append(RollbackOptimizer(config.hp_optimizer, folder=Path(folder)))
        try:
            Trainer(config, callbacks).fit()
        except DivergedError as error:
            record["diverged"] = str(error)
    return {**record, "steps": options.steps, "rows": curve.rows}


def deepest_fall(values: Sequence[float]) -> float:
    """Return the largest distance of a value below the best one before it."""
    return max(max(values[: i + 1]) - value for i, value in enumerate(values))


def table(options: argparse.Namespace) -> None:
    """Print one line per name, in the order of names, and the curve of each seed on request."""
    groups: dict[str, list[Record]] = {}
    for path in sorted(options.results.glob("*-s*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        groups.setdefault(record["name"], []).append(record)
    truth = Truth(options.data).best_gaussian()
    print(f"best Gaussian filter: {truth['psnr']:.2f} dB, SSIM {truth['ssim']:.3f}\n")
    print(
        "| training | seeds | PSNR / dB | SSIM | best - end / dB | deepest fall / dB | score"
        " | spectrum / dB | Wasserstein | checkerboard | noise in cycle / dB | seconds |"
    )
    print("|" + " --- |" * 12)
    for name, records in groups.items():
        print(line_of(name, records))
        if options.curves:
            for record in records:
                curve = ", ".join(f"{row['psnr']:.2f}" for row in record["rows"])
                print(f"    seed {record['seed']}: {curve}")


def line_of(name: str, records: list[Record]) -> str:
    """Return a row of the table; trainings that diverged are named and not counted."""
    good = [record["rows"] for record in records if "diverged" not in record]
    if not good:
        return f"| {name} | all of {len(records)} diverged |"
    ends = [rows[-1] for rows in good]
    curves = [[row["psnr"] for row in rows] for rows in good]
    cells = [
        name,
        f"{len(good)}" + (f" of {len(records)}" if len(good) < len(records) else ""),
        _spread([end["psnr"] for end in ends], 2),
        _spread([end["ssim"] for end in ends], 3),
        f"{max(max(curve) - curve[-1] for curve in curves):.2f}",
        f"{max(deepest_fall(curve) for curve in curves):.2f}",
        _spread([end["score"] for end in ends], 2),
    ]
    for part in PARTS:
        found = [v for end in ends for k, v in end["parts"].items() if k.endswith(part)]
        cells.append(f"{statistics.mean(found):.3f}" if found else "-")
    cells.append(f"{statistics.mean(end['seconds'] for end in ends):.0f}")
    return "| " + " | ".join(cells) + " |"


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, yaml.safe_load(value)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/training_curve"))
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    stages = parser.add_subparsers(dest="stage", required=True)
    running = stages.add_parser("run", help="train and measure")
    running.add_argument("name", help="name of this configuration in the table")
    running.add_argument("--recipe", type=Path, default=RECIPE)
    running.add_argument("--set", type=_setting, nargs="*", default=[], metavar="KEY=VALUE")
    running.add_argument("--seeds", type=int, nargs="*", default=[0])
    running.add_argument("--steps", type=int, default=6000)
    tabling = stages.add_parser("table", help="print what has been trained")
    tabling.add_argument("--curves", action="store_true", help="print PSNR at every validation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "table":
        table(options)
    else:
        options.set = dict(options.set)
        run(options)


if __name__ == "__main__":
    main()
