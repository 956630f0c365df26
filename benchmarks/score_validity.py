"""Does the reference-free score choose the training that is best in truth?

    cyclegan simulate data/phantom --phantom
    python benchmarks/score_validity.py train      # hours on one core; goes on where it was killed
    python benchmarks/score_validity.py judge      # minutes; with what is trained so far
    python benchmarks/score_validity.py cost
    python benchmarks/score_validity.py train --kind recipe
    python benchmarks/score_validity.py judge --kind all --unfamiliar

`train` makes a pool of unpaired trainings with random hyperparameters (`score_pool.py`). `judge`
scores their stored generators without reference on the patches that a study would use, measures
them against the phantom's truth (`score_truth.py`), puts faults on top of the best
(`score_failures.py`), prints tables with 95 % bootstrap intervals over configurations, and writes
`results/score_validity.csv` and the plot of docs/score.md. `cost` compares the time of a validation
with that of the steps between two validations.

`--kind recipe` draws trainings with the loss on pseudo pairs; `--kind all` judges both kinds
together and separately. `--unfamiliar` also judges by degradations that no training has seen
(`score_degradations.py`), at the step where a study prunes and at the end.

The score's weights were chosen on configurations c00 to c11 with seed 0; the tables also show all
others separately.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_degradations import Unfamiliar, print_favour
from score_failures import Faulty, faults
from score_halves import write_halves
from score_pool import SPACES, Member, configuration, members, train_pool
from score_statistics import Interval, auc, bootstrap
from score_tables import Row, column, print_subsets
from score_truth import Truth, generator_of, truth_of

from cyclegan import Trainer
from cyclegan.data.training_data import TrainingData
from cyclegan.files import write_text
from cyclegan.score import GATED, Score, value_of
from cyclegan.validation import Validator

CHOSEN_BY = 12
"""Random configurations below this number were looked at when the weights were chosen."""
PARTS_OF_VALUE = (
    "pseudo_pair_gain_db",
    "spectrum_distance_db",
    "sliced_wasserstein",
    "shell_gain",
    "checkerboard",
)


def chosen(options: argparse.Namespace) -> list[Member]:
    """Return the trainings of the requested kind, or of all kinds."""
    kinds = list(SPACES) if options.kind == "all" else [options.kind]
    return [
        member for kind in kinds for member in members(options.configurations, options.seeds, kind)
    ]


def validator(options: argparse.Namespace) -> Validator:
    """Return the validator of a study: eight patches of 32^3 per domain, and half scans."""
    write_halves(options.data)
    member = members(options.configurations, options.seeds)[0]
    config = configuration(member, options.data, options.steps, "bf16")
    config = config.model_copy(update={"data_A": str(options.data / "fast_halves.json")})
    device = torch.device("cpu")
    return Validator(config, TrainingData(config, device), device)


def judged(options: argparse.Namespace, judge: Validator) -> list[Row]:
    """Return one row for each complete training and stored step; cache it beside the generators.

    The cache holds parts, so that other weights need no new run.
    """
    truth = Truth(options.data)
    others = None
    if options.unfamiliar:
        others = Unfamiliar(judge.patches_A, judge.patches_B, judge.score)
    rows = []
    for member in chosen(options):
        folder = member.folder(options.pool)
        if not (folder / "losses.json").exists():
            continue
        losses = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
        for step in range(options.every, options.steps + 1, options.every):
            path = folder / f"step-{step:05d}.pt"
            parts = parts_of(path, judge.score, again=options.again)
            row = row_of(member, step, truth_of(folder, step, truth), parts, losses[str(step)])
            if others is not None and step in (options.judge_at, options.steps):
                cache = folder / f"unfamiliar-{step:05d}.json"
                row |= others.cached(cache, generator_of(path), again=options.again)
            rows.append(row)
    return rows


def parts_of(path: Path, score: Score, *, again: bool) -> Row:
    """Return gate and parts of a stored generator; score it anew if the cache lacks a part."""
    cache = path.with_name(path.name.replace("step-", "parts-")).with_suffix(".json")
    if not again and cache.exists():
        parts: Row = json.loads(cache.read_text(encoding="utf-8"))
        if parts["gate"] or set(PARTS_OF_VALUE) <= set(parts):
            return parts
    report = score(generator_of(path), generator_of(path, "B"))
    found = {"gate": report.gate, **report.parts}
    write_text(cache, json.dumps(found))
    return found


def row_of(member: Member, step: int, quality: Row, parts: Row, losses: dict[str, float]) -> Row:
    """Return all that is known about one generator: its training, true quality and criteria."""
    return {
        "kind": member.kind,
        "configuration": member.configuration,
        "training": member.name,
        "fresh": member.kind != "random" or member.number >= CHOSEN_BY,
        "seed": member.seed,
        "step": step,
        **member.values,
        **quality,
        **parts,
        "value": value(parts),
        **{f"without_{n}": value(parts, n) for n in PARTS_OF_VALUE},
        "cycle_loss": losses["loss/C_A_l1"] + losses["loss/C_B_l1"],
        "generator_loss": losses["loss/G_total"],
    }


def value(parts: Row, without: str | None = None) -> float:
    """Return the score from cached parts with the current weights, or with one part left out."""
    if parts["gate"]:
        return GATED
    return max(value_of(parts | {without: 0.0} if without else parts), GATED + 1)


def kept_generators(rows: list[Row]) -> list[Row]:
    """Return each training's row of the best score: that of the generator in `generator.pt`."""
    best: dict[str, Row] = {}
    for row in rows:
        name = row["training"]
        if name not in best or row["value"] > best[name]["value"]:
            best[name] = row
    return list(best.values())


def print_failures(options: argparse.Namespace, score: Score, rows: list[Row]) -> None:
    """Print the AUC of every fault on the best third of the trainings, against that third."""
    truth = Truth(options.data)
    end = sorted((r for r in rows if r["step"] == options.steps), key=lambda r: -r["psnr"])
    healthy = end[: max(len(end) // 3, 2)]
    good, groups = column(healthy, "value"), np.array([r["configuration"] for r in healthy])
    print(f"\nfaults on top of the {len(healthy)} best trainings at the end")
    print(f"{'fault':46s} {'AUC':24s} {'gated':>6s} {'score':>8s} {'PSNR':>6s} {'SSIM':>6s}")
    full, half, faint = [], [], []
    for name, fault in faults(truth.std).items():
        spoiled = []
        for row in healthy:
            path = options.pool / row["training"] / f"step-{options.steps:05d}.pt"
            spoiled.append(score(Faulty(generator_of(path), fault)))
        failed = np.array([report.value for report in spoiled])
        kind = half if "half as strong" in name else faint if name.startswith("faint") else full
        kind.append(failed)
        # Loss of true quality of the last generator's image.
        lost = truth(Faulty(generator_of(path), fault))
        gated = np.mean([report.gate is not None for report in spoiled])
        change = np.median(failed - good)
        print(
            f"{name:46s} {_auc(good, [failed], groups, options.resamples)!s:24s} {gated:6.0%}"
            f" {change:+8.2f} {lost['psnr'] - row['psnr']:+6.2f} {lost['ssim'] - row['ssim']:+6.3f}"
        )
    for title, group in (
        ("all at full strength", full),
        ("all at half strength", half),
        ("all that are faint", faint),
    ):
        print(f"{title:46s} {_auc(good, group, groups, options.resamples)!s:24s}")


def _auc(
    good: np.ndarray, failed: list[np.ndarray], groups: np.ndarray, resamples: int
) -> Interval:
    """Return the AUC over all pairs; resample configurations with their seeds and faults."""
    table = np.stack(failed)
    return bootstrap(lambda rows: auc(good[rows], table[:, rows].ravel()), groups, resamples)


def judge(options: argparse.Namespace) -> None:
    """Judge all trainings: print the tables, write the CSV file and the plot."""
    judging = validator(options)
    rows = judged(options, judging)
    _write_csv(Path("results/score_validity.csv"), rows)
    then = [row for row in rows if row["step"] == options.judge_at]
    end = [row for row in rows if row["step"] == options.steps]
    truth = Truth(options.data)
    print(f"best Gaussian filter: {truth.best_gaussian()['psnr']:.2f} dB against the truth")
    kept = kept_generators(rows)
    at = f"criteria at step {options.judge_at}"
    for title, told, quality in (
        (f"{at}, quality then", then, then),
        (f"{at}, quality of the generators kept until step {options.steps}", then, kept),
        (f"{at}, quality at step {options.steps}", then, end),
        (f"criteria at step {options.steps}, quality at step {options.steps}", end, end),
        ("criteria at the kept generators' step, quality of these", kept, kept),
    ):
        print_subsets(title, told, quality, options.resamples)
    for title, table in ((at, then), (f"criteria at step {options.steps}", end)):
        print_favour(title, table, options.resamples)
    if options.plot:
        from score_plot import draw

        draw(options.plot, then, end, options.judge_at)
    print_failures(options, judging.score, rows)


def _write_csv(path: Path, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names)
        writer.writeheader()
        writer.writerows(rows)


def cost(options: argparse.Namespace) -> None:
    """Print the share of a validation in the time of itself and the 100 steps before it."""
    member = members(options.configurations, options.seeds)[0]
    for size, halves in ((32, False), (32, True), (64, False)):
        config = configuration(member, options.data, 10**6, "bf16")
        changes: dict[str, Any] = {"imsize_A": (size, size, size)}
        if halves:
            changes["data_A"] = str(write_halves(options.data))
        trainer = Trainer(config.model_copy(update=changes))
        seconds: dict[str, list[float]] = {"step": [], "validation": []}
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(3):
                trainer._train_one_step()
            middle = time.perf_counter()
            trainer.validator(trainer.model, step=0, iteration=0)
            seconds["step"].append((middle - start) / 3)
            seconds["validation"].append(time.perf_counter() - middle)
        trainer.data.close()
        step, validation = (float(np.median(times[1:])) for times in seconds.values())
        print(
            f"patches of {size}^3{', halves' if halves else ''}: a step {1e3 * step:.0f} ms, a"
            f" validation {1e3 * validation:.0f} ms; every 100 steps it is"
            f" {validation / (validation + 100 * step):.1%} of the time"
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["train", "judge", "cost"])
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--pool", type=Path, default=Path("results/score_pool"))
    parser.add_argument("--kind", choices=[*SPACES, "all"], default="random")
    parser.add_argument("--configurations", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--every", type=int, default=40, help="steps between stored generators")
    parser.add_argument("--judge-at", type=int, default=120, help="step at which a study prunes")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--plot", type=Path, help="draw docs/images/score_validity.png")
    parser.add_argument(
        "--unfamiliar", action="store_true", help="judge by other degradations, too"
    )
    parser.add_argument("--again", action="store_true", help="score anew what is cached")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "train":
        train_pool(
            options.pool, options.data, chosen(options), options.steps, options.every, "bf16"
        )
    elif options.stage == "judge":
        judge(options)
    else:
        cost(options)


if __name__ == "__main__":
    main()
