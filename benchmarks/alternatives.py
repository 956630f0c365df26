"""Compare this software with its alternatives: one table per data set.

    python benchmarks/alternatives.py --data data/alternatives --results results/alternatives
    python benchmarks/alternatives.py ... --sets phantom_1x bone --only Gaussian "ours (promoted)"
    python benchmarks/alternatives.py ... --table docs/alternatives.md --pictures docs/images

The rows are filters (each with the parameter that is best against the reference, which favours
them), BM4D, Noise2Void, the recipe of the software that this one follows, our recipe after a trial
and after a promotion, pseudo pairs alone, and the supervised bound. The script judges them against
the truth of phantoms and the aligned slow scan of real volumes (`alternatives_sets.py`). All
trainings get the same number of steps (--steps, else those of our recipe) or the same time
(--minutes), on one thread. --results stores every finished (set, row, seed); the script computes it
again only if its settings changed. The seeds are those of trainings; the data sets are the same for
all.

BM4D and careamics are no dependencies of this project. To compare with them, install them elsewhere
and name their Python (careamics needs an older torchvision, hence an older torch):

    python -m venv /tmp/bm4d && /tmp/bm4d/bin/pip install bm4d
    python -m venv /tmp/n2v && /tmp/n2v/bin/pip install careamics
    python benchmarks/alternatives.py ... --bm4d /tmp/bm4d/bin/python --n2v /tmp/n2v/bin/python
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from alternatives_judge import Judge
from alternatives_results import LeftOut, Record, Store
from alternatives_rows import ROWS, Job, Options, Row, compute
from alternatives_sets import SETS, make
from alternatives_tables import figures, markdown, text
from alternatives_training import Budget

from cyclegan import CycleGANError
from cyclegan.config import parse_overrides
from cyclegan.files import write_text


def run(options: argparse.Namespace) -> dict[str, list[Record]]:
    """Compute the missing rows; return the finished rows of all requested data sets."""
    if options.jobs == 1:
        return {name: one_set(options, name) for name in options.sets}
    # Every set has its own files. Processes are spawned, because torch must not be forked.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = {name: pool.submit(one_set, options, name) for name in options.sets}
        return {name: future.result() for name, future in rows.items()}


def one_set(options: argparse.Namespace, name: str) -> list[Record]:
    """Compute the missing rows of a data set; return all that are finished."""
    torch.set_num_threads(1)
    store = Store(options.results)
    scans = make(SETS[name], options.data / name, say)
    judge = Judge(scans.reference)
    jobs = [
        Job(scans=scans, judge=judge, options=_rows_options(options), store=store, seed=seed)
        for seed in options.seeds
    ]
    records = [
        record
        for row in options.only
        for job in jobs[: None if ROWS[row].seeded else 1]
        if (record := _one(ROWS[row], job)) is not None
    ]
    if options.pictures and records:
        from alternatives_picture import draw

        path = options.pictures / f"alternatives_{name}.png"
        draw(path, store, name, records, judge)
        say(f"{name}: {path}")
    return records


def _one(row: Row, job: Job) -> Record | None:
    """Return a row with a seed; if it can't be computed here, say why and return None."""
    where = f"{job.scans.data.name}: {row.name}{f', seed {job.seed}' if row.seeded else ''}"
    started = time.perf_counter()
    try:
        record = compute(row, job)
    except LeftOut as reason:
        say(f"{where}: left out: {reason}")
        return None
    took = time.perf_counter() - started
    say(f"{where}: {record['psnr']:.2f} dB, SSIM {record['ssim']:.3f} ({took:.0f} s)")
    return record


def _rows_options(options: argparse.Namespace) -> Options:
    budget = Budget(steps=options.steps, minutes=options.minutes, trial=options.trial)
    return Options(
        budget=budget,
        recipe=options.recipe,
        seed_recipe=options.seed_recipe,
        pseudo_recipe=options.pseudo_recipe,
        changes=parse_overrides(options.set),
        bm4d=options.bm4d,
        n2v=options.n2v,
        n2v_minutes=options.n2v_minutes,
    )


def say(message: str) -> None:
    """Print progress to standard error: standard output is for the result."""
    print(message, file=sys.stderr, flush=True)


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data sets, made if missing")
    add("--results", type=Path, required=True, help="folder of the results so far")
    add("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    add("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of the trainings")
    add("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=int, help="steps of every training; else those of our recipe"
    )
    length.add_argument("--minutes", type=float, help="duration of every training")
    add("--trial", type=float, default=0.25, help="share of that for a trial (%(default)s)")
    add("--recipe", type=Path, help="YAML of our training, instead of studies/recipe*.yaml")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of all trainings")
    add("--seed-recipe", type=Path, help="instead of studies/seed_recipe*.yaml")
    add("--pseudo-recipe", type=Path, help="instead of studies/pseudo_recipe*.yaml")
    add("--bm4d", type=Path, metavar="PYTHON", help="Python of an environment with bm4d")
    add("--n2v", type=Path, metavar="PYTHON", help="Python of an environment with careamics")
    add(
        "--n2v-minutes",
        type=float,
        help="end a training of Noise2Void after this time, if its steps have not ended it before",
    )
    add("--jobs", type=int, default=1, help="data sets at a time, one thread each (%(default)s)")
    add("--json", action="store_true", help="one line of figures on standard output")
    add("--pictures", type=Path, metavar="DIR", help="write a picture of each data set there")
    add("--table", type=Path, metavar="FILE.md", help="write the tables as a Markdown page")
    return parser.parse_args(line)


def main(line: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or the code of an error after printing it in one line."""
    options = arguments(line)
    try:
        found = run(options)
        if options.table:
            write_text(options.table, markdown(found, _command(options), _pictures(options)))
            say(f"tables: {options.table}")
    except CycleGANError as error:
        say(f"alternatives: {error}")
        return error.exit_code
    print(json.dumps(figures(found)) if options.json else text(found))
    return 0


def _pictures(options: argparse.Namespace) -> dict[str, str]:
    """Return the pictures beside the page, in `images/`, by data set."""
    names = {name: f"images/alternatives_{name}.png" for name in options.sets}
    return {n: path for n, path in names.items() if (options.table.parent / path).exists()}


def _command(options: argparse.Namespace) -> str:
    """Return the command as others can type it, without folders of this machine."""
    words = ["python benchmarks/alternatives.py --data DATA --results RESULTS"]
    if options.set:
        words += ["--set", *options.set]
    if options.sets != list(SETS):
        words.append(f"--sets {' '.join(options.sets)}")
    words.append(f"--seeds {' '.join(map(str, options.seeds))}")
    for name in ("steps", "minutes", "trial", "n2v-minutes"):
        value = getattr(options, name.replace("-", "_"))
        words += [] if value is None else [f"--{name} {value:g}"]
    words += [] if options.jobs == 1 else [f"--jobs {options.jobs}"]
    words += [f"--{name} PYTHON" for name in ("bm4d", "n2v") if getattr(options, name)]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
