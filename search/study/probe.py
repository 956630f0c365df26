"""Timing a few real steps of a study's first trial; nothing is left behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config, parse_config
from cyclegan.generator import save_generators
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport
from search.study.forecast import Probe, seconds_of
from viz.pictures import six_images, write_png

_EVERY = 5
"""Steps between validations of the probe; it ends after one, but not the first."""


def probe(config: Config, *, seconds: float = 10.0) -> Probe:
    """Train `config` for about so many seconds, longer if ten steps and two validations take it.

    Errors: those of a training that can't begin.
    """
    changes = {"steps": 10_000, "validate_every": _EVERY, "checkpoint_every": 10_000}
    short = parse_config(config.to_dict() | changes | {"checkpoint_minutes": None})
    with tempfile.TemporaryDirectory(prefix="cyclegan-probe-") as name:
        began = time.perf_counter()
        trainer = Trainer(short, folder=Path(name))
        clock = _Clock(Path(name), began, seconds)
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
        """What a training leaves on disk, into a folder that is removed."""
        start = time.perf_counter()
        checkpoint = trainer.save_checkpoint()
        self.checkpoint = time.perf_counter() - start
        assert checkpoint is not None
        generator, picture = self.folder / "generator.pt", self.folder / "picture.png"
        save_generators(trainer.model, generator, step=trainer.step)
        write_png(six_images(report.images), picture)
        paths = {"checkpoint": checkpoint, "generator": generator, "picture": picture}
        self.sizes = {name: path.stat().st_size for name, path in paths.items()}
