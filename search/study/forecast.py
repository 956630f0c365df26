"""Forecast of a study's cost: optimisation steps, hours, disk space; with a probe of real steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config, parse_config
from cyclegan.footprint import snapshots
from cyclegan.generator import save_generators
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport
from search.study.definition import StudyDefinition
from search.study.pruners import bracket_of, halving_cutoff, judged_at
from search.study.simulated import played
from tracking.scratch import temporary_folder
from viz.pictures import six_images, write_png

_TRIALS_SIMULATED = 20_000
_MOST_STUDIES = 400


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One judgement that trials have to pass."""

    bracket: int
    rung: int
    iteration: int
    """Iteration of the report at which the rung is judged."""
    arrive: float
    """Expected number of trials that get this far."""
    go_on: float
    """Expected number of trials that pass."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Optimisation steps of a whole study."""

    at_most: int
    """Steps if no trial is pruned."""
    expected: int | None
    """Steps with pruning; None for pruners whose decisions depend on the curves."""
    trainings: float
    """Expected number of trainings, including further seeds."""
    complete: float
    """Expected number of trials that are not pruned."""
    rungs: tuple[Rung, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measurements of a few real steps; times in seconds, sizes in bytes."""

    device: str
    precision: str
    steps: int
    """Number of timed steps."""
    start: float
    """Time until the first step: reading data, building networks, choosing the precision."""
    step: float
    validation: float
    checkpoint: float
    core_share: float
    """On a CPU, the share of its cores that the training got; well below 1 if others used them,
    too."""
    checkpoint_bytes: int
    generator_bytes: int
    picture_bytes: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of an effort on the probed machine, one trial at a time."""

    hours: float
    """Hours of the expected steps; without an expectation, hours of the most steps possible."""
    hours_at_most: float
    disk_bytes: int


class _Curve(Protocol):
    """Plays one trial: yields its judgements and whether it passes them."""

    def __call__(self, number: int, quality: float) -> Iterator[tuple[int, int, int, bool]]:
        """Yield bracket, rung, iteration and outcome of each judgement."""


def effort(definition: StudyDefinition) -> Effort:
    """Return the steps of a study, from many simulations with trials in random order.

    The simulation assumes that a trial has the same rank at every report. It ignores gates and
    failures, which make a study cheaper.
    """
    trials, steps = definition.trials, definition.steps
    extra = definition.seeds - 1
    at_most = trials * steps * definition.seeds
    if definition.pruner.name == "thaw":
        return _effort_with_pauses(definition, at_most)
    if definition.pruner.name in ("patience", "threshold"):
        trainings = float(trials * definition.seeds)
        return Effort(at_most=at_most, expected=None, trainings=trainings, complete=float(trials))
    studies = max(1, min(_MOST_STUDIES, _TRIALS_SIMULATED // trials))
    rng = np.random.default_rng(0)
    spent, complete = 0, 0
    counts: dict[tuple[int, int, int], list[int]] = {}
    for _ in range(studies):
        play = _player(definition)
        for number, quality in enumerate(rng.permutation(trials)):
            end = steps
            for bracket, rung, iteration, passed in play(number, float(quality)):
                count = counts.setdefault((bracket, rung, iteration), [0, 0])
                count[0] += 1
                count[1] += passed
                if not passed:
                    end = iteration
            complete += end == steps
            spent += end + (extra * steps if end == steps else 0)
    rungs = [
        Rung(bracket=b, rung=r, iteration=i, arrive=n / studies, go_on=passed / studies)
        for (b, r, i), (n, passed) in sorted(counts.items())
    ]
    return Effort(
        at_most=at_most,
        expected=round(spent / studies),
        trainings=trials + extra * complete / studies,
        complete=complete / studies,
        rungs=tuple(rungs) if definition.pruner.rungs(steps) else (),
    )


def _effort_with_pauses(definition: StudyDefinition, at_most: int) -> Effort:
    pruner, steps = definition.pruner, definition.steps
    first = judged_at(pruner.prune_after, definition.report_every)
    found = played(definition.trials, steps, first, least_chance=pruner.least_chance)
    further = found.complete * (definition.seeds - 1)
    return Effort(
        at_most=at_most,
        expected=round(found.steps + further * steps),
        trainings=definition.trials + further,
        complete=found.complete,
    )


def _player(definition: StudyDefinition) -> _Curve:
    """Return a new simulated study; call it for one trial after the other."""
    pruner, every, steps = definition.pruner, definition.report_every, definition.steps
    at_rung: dict[tuple[int, int], list[float]] = {}
    complete: list[float] = []
    built = pruner.build(steps)
    study: Any = SimpleNamespace(study_name=definition.name)

    def halving(number: int, quality: float) -> Iterator[tuple[int, int, int, bool]]:
        trial: Any = SimpleNamespace(number=number)
        bracket = bracket_of(built, study, trial)
        for rung, at in enumerate(pruner.rungs(steps, bracket)):
            iteration = judged_at(at, every)
            if iteration >= steps:  # nothing is pruned at the last report
                return
            rivals = at_rung.setdefault((bracket, rung), [])
            passed = quality >= halving_cutoff(quality, rivals, pruner.reduction_factor)
            rivals.append(quality)
            yield bracket, rung, iteration, passed
            if not passed:
                return

    keep = 50.0 if pruner.name == "median" else pruner.keep_percent

    def percentile(number: int, quality: float) -> Iterator[tuple[int, int, int, bool]]:
        passed = not (
            complete
            and len(complete) >= pruner.startup_trials
            and quality < float(np.percentile(complete, 100.0 - keep))
        )
        if passed:
            complete.append(quality)
        yield 0, 0, judged_at(pruner.prune_after, every), passed

    return percentile if pruner.name in ("median", "percentile") else halving


def cost(definition: StudyDefinition, config: Config, effort: Effort, probe: Probe) -> Cost:
    """Return hours and bytes of `effort`, from the probe's times; `config` is that of a trial."""
    expected = effort.at_most if effort.expected is None else effort.expected
    cap = definition.stop.iterations
    if cap is not None:
        expected = min(expected, cap)
    return Cost(
        hours=_hours(definition, config, expected, effort.trainings, probe),
        hours_at_most=_hours(
            definition,
            config,
            min(effort.at_most, cap or effort.at_most),
            definition.trials * definition.seeds,
            probe,
        ),
        disk_bytes=disk_bytes(definition, config, expected, effort, probe),
    )


def _hours(
    definition: StudyDefinition, config: Config, iterations: int, trainings: float, probe: Probe
) -> float:
    seconds = (
        trainings * (probe.start + probe.checkpoint)
        + iterations * probe.step
        + iterations / definition.report_every * probe.validation
        + iterations / config.checkpoint_every * probe.checkpoint
    )
    return seconds / 3600


def disk_bytes(
    definition: StudyDefinition, config: Config, iterations: int, effort: Effort, probe: Probe
) -> int:
    """Return the bytes that a study leaves in `results/` and in the store.

    They are the checkpoints of the trials that keep theirs and of the one that is running, and for
    every training its generators and the picture of each validation. Generators and pictures count
    twice: in the training's folder and in the store.
    """
    keep = definition.checkpoints.keep_trials
    pruned = definition.trials - effort.complete
    kept = min(min(keep, effort.complete) + min(keep, pruned) + 1, definition.trials)
    written = definition.steps // config.checkpoint_every + 1
    each = min(config.keep_checkpoints, written) + config.keep_best_checkpoint
    checkpoints = kept * definition.seeds * each * checkpoint_bytes(config, probe)
    pictures = iterations / definition.report_every * probe.picture_bytes
    return round(checkpoints + 2 * (effort.trainings * probe.generator_bytes + pictures))


def checkpoint_bytes(config: Config, probe: Probe) -> int:
    """Return the bytes of a checkpoint with full image pools and a full ring of snapshots."""
    voxels = np.prod(config.imsize_A) * config.channels_A
    voxels += np.prod(config.imsize_B) * config.channels_B
    state = probe.checkpoint_bytes + config.pool_size * int(voxels) * 4
    return round(state * (1 + snapshots(config)))


def seconds_of(times: Sequence[float]) -> float:
    """Return the median of some times; 0 without any."""
    return float(np.median(times)) if times else 0.0


# -- Probe: timing a few real steps of a study's first trial -----------------------------------

_EVERY = 5
"""Number of steps between validations of the probe. It ends after a validation, but not the
first."""


def probe(config: Config, *, seconds: float = 10.0) -> Probe:
    """Train `config` for about `seconds`, or longer if ten steps and two validations need it.

    Nothing is left on disk.

    Errors: those of a training that can't begin.
    """
    changes = {"steps": 10_000, "validate_every": _EVERY, "checkpoint_every": 10_000}
    short = parse_config(config.to_dict() | changes | {"checkpoint_minutes": None})
    with temporary_folder() as folder:
        began = time.perf_counter()
        trainer = Trainer(short, folder=folder)
        clock = _Clock(folder, began, seconds)
        trainer.add_callback(clock)
        trainer.fit()
        return Probe(
            device=str(trainer.device),
            precision=trainer.config.precision,
            steps=len(clock.steps),
            start=clock.start,
            step=seconds_of(clock.steps[2:]),  # the first ones pay for the libraries' preparations
            validation=min(clock.validations),
            checkpoint=clock.checkpoint,
            core_share=min(clock.cpu / sum(clock.steps) / torch.get_num_threads(), 1.0),
            checkpoint_bytes=clock.sizes["checkpoint"],
            generator_bytes=clock.sizes["generator"],
            picture_bytes=clock.sizes["picture"],
        )


class _Clock(Callback):
    """Times steps, validations and a checkpoint, then ends the training."""

    def __init__(self, folder: Path, began: float, seconds: float) -> None:
        self.folder, self.began, self.seconds = folder, began, seconds
        self.start = 0.0
        self.steps: list[float] = []
        self.validations: list[float] = []
        self.cpu = 0.0
        """Processor seconds of all steps and threads."""
        self.checkpoint = 0.0
        self.sizes: dict[str, int] = {}
        self._last = began
        self._cpu = 0.0

    def on_train_start(self, trainer: Trainer) -> None:
        self._last = time.perf_counter()
        self.start = self._last - self.began
        self._cpu = time.process_time()

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self.cpu += time.process_time() - self._cpu
        self._last, self._cpu = now, time.process_time()

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        now = time.perf_counter()
        self.validations.append(now - self._last)
        if len(self.validations) >= 2 and now - self.began - self.start >= self.seconds:
            self._write(trainer, report)
            trainer.request_stop("probed")
        self._last, self._cpu = time.perf_counter(), time.process_time()

    def _write(self, trainer: Trainer, report: ValidationReport) -> None:
        """Write the files that a training leaves on disk into a folder that is removed later."""
        start = time.perf_counter()
        checkpoint = trainer.save_checkpoint()
        self.checkpoint = time.perf_counter() - start
        assert checkpoint is not None
        generator, picture = self.folder / "generator.pt", self.folder / "picture.png"
        save_generators(trainer.model, generator, step=trainer.step)
        write_png(six_images(report.images), picture)
        paths = {"checkpoint": checkpoint, "generator": generator, "picture": picture}
        self.sizes = {name: path.stat().st_size for name, path in paths.items()}
