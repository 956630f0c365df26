"""Long work stays as cheap as it began: memory, open files, threads, and the time of a trial."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import Tensor

from cyclegan import parse_config
from cyclegan.callbacks import Callback
from cyclegan.trainer import Trainer
from search.study import open_study
from search.study.definition import load_definition
from search.study.runner import run_study
from tracking import Store, TrackingCallback
from viz.console import Console

pytestmark = pytest.mark.nightly
MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
TRIALS = int(os.environ.get("SOAK_TRIALS", "200"))
SAMPLES = 20


class Gauge(Callback):
    """Measures the process `SAMPLES` times during a training of `MINUTES`, then ends it."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.samples: list[tuple[int, int, int, float]] = []
        """Bytes, open files, threads, steps a second since the last sample."""
        self.last = 0, 0.0

    def on_train_start(self, trainer: Trainer) -> None:
        self.last = trainer.iteration, time.monotonic()

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        now = time.monotonic()
        if now - self.last[1] < 60 * MINUTES / SAMPLES:
            return
        gc.collect()
        rate = (trainer.iteration - self.last[0]) / (now - self.last[1])
        found = self.process
        self.samples.append((found.memory_info().rss, found.num_fds(), found.num_threads(), rate))
        self.last = trainer.iteration, now
        if len(self.samples) == SAMPLES:
            trainer.request_stop("measured enough")


def halves(values: list[float]) -> tuple[float, float]:
    """Return the medians of the second quarter and of the last one; the first one warms up."""
    quarter = len(values) // 4
    return statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])


def test_ten_minutes_of_steps_cost_the_same_at_the_end(
    store: Store, tiny: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"steps": 10_000_000, "validate_every": 50, "checkpoint_every": 100, "log_every": 10}
    config = parse_config(tiny | changes | {"volumes_mb": 1})
    gauge = Gauge()
    run = store.create_run("soak", "soak", kind="train", params={}, tags={})
    Trainer(config, [TrackingCallback(run), gauge], tmp_path / "soak").fit()
    columns = zip(*gauge.samples, strict=True)
    memory, files, threads, rates = (list(map(float, column)) for column in columns)
    before, after = halves(memory)
    assert after < 1.05 * before + 20e6, memory
    assert max(files[SAMPLES // 2 :]) <= max(files[: SAMPLES // 2]) + 2, files
    assert max(threads[SAMPLES // 2 :]) <= max(threads[: SAMPLES // 2]) + 1, threads
    before, after = halves(rates)
    assert after > 0.7 * before, rates


def test_the_last_trial_costs_no_more_than_the_first(
    definition_file: Callable[..., Path], store: Store
) -> None:
    path = definition_file(
        trials=TRIALS,
        steps=1,
        report_every=1,
        pruner={"name": "none"},
        checkpoints={"keep_trials": 1},
        config={"validation_patches": 4, "volumes_mb": 0},
    )
    run_study(load_definition(path), store=store, console=Console(quiet=True))
    handle = open_study("s")
    seconds = [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trial in handle.study.get_trials()
        if trial.datetime_complete and trial.datetime_start
    ]
    assert len(seconds) == TRIALS
    first = statistics.median(seconds[2 : 2 + TRIALS // 10])
    last = statistics.median(seconds[-TRIALS // 10 :])
    assert last <= 1.5 * first, (first, last)
