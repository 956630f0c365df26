"""The callback that sends everything of a training to its run.

What becomes a point in a chart lies on the iteration axis. Losses are means over a few iterations,
since the point before. A point is made once all about its iteration is known, which is when the
next one has begun: losses, validation, a rollback and changed hyperparameters then go in one
transaction. So the last iteration found in the store tells exactly where a training that was killed
and resumed from an older checkpoint has to go on; what was still on its way is in the checkpoint.

The training's thread only collects; a tracker writes (`tracking.tracker`), that of MLflow in a
thread of its own (`tracking.outbox.writer`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from cyclegan.callbacks import Callback
from tracking.cycle_volumes import FOLDER, CycleVolumes
from tracking.downsampling import Sample, interpolate, mean_row, merge, row_values, spans
from tracking.outbox import records
from tracking.outbox.writer import INTERVAL, BackgroundWriter
from tracking.params import compared
from tracking.provenance import data_inputs, provenance
from tracking.rollbacks import RollbackEvidence, rollback_points
from tracking.run import Run, Status
from tracking.system import SystemMonitor
from tracking.tracker import Tracker
from tracking.views import CYCLE_PICTURES, ROLLBACK_PICTURES
from viz.pictures import six_images

if TYPE_CHECKING:
    from cyclegan.events import RollbackEvent, TrainResult
    from cyclegan.history import Row
    from cyclegan.trainer import Trainer
    from cyclegan.validation import ValidationReport
    from tracking.past_training import PastTraining

log = logging.getLogger(__name__)

Finals = Callable[["TrainResult"], Iterable[records.Record]]


class TrackingCallback(Callback):
    """Tells a tracker everything of a training.

    Args:
        target: a run of MLflow, new or that of the training that is resumed; or any `Tracker`.
        every: iterations of which losses are charted as one point, their mean; by default
            `log_every` of the configuration. Validations and rollbacks have points of their own.
        seconds: between batches; validations and rollbacks are sent at once.
        images: log the six images of each validation as a picture.
        volumes: keep the six images of some validations as volumes (see `tracking.cycle_volumes`).
        finals: records to be written last, asked for when all callbacks have ended.
        clock: seconds since 1970; by default `steady_clock`.

    Only `on_train_start` raises (`CycleGANError`, if the store can't be read): later the training
    is worth more than its record.
    """

    def __init__(
        self,
        target: Run | Tracker,
        *,
        every: int | None = None,
        seconds: float = INTERVAL,
        images: bool = True,
        volumes: bool = True,
        finals: Finals | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.every = every
        self.seconds = seconds
        self.images = images
        self.volumes = volumes
        self._finals = finals
        self._clock = clock or steady_clock()
        self._tracker: Tracker = (
            BackgroundWriter(target, extra=SystemMonitor()) if isinstance(target, Run) else target
        )
        self._end: tuple[TrainResult | None, records.End] | None = None
        self._unsent: dict[int, dict[str, float]] = {}  # of a process that is gone
        self._extra: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self._evidence = RollbackEvidence(images=images)
        self._pictures: set[int] = set()
        self._due = False
        self._gate: str | None = None
        self._in_force: dict[str, float] = {}
        self._nonfinite = 0
        self._stored = 0  # the last iteration in the store when this process began
        self._seen = 0  # the last iteration handed to the tracker by this process
        self._validated = 0  # the iteration of the last validation that was taken whole
        self._begin = 0  # the iteration this process began at
        self._time = 0.0  # when `_seen` was reached

    # -- events -------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer) -> None:
        """Log configuration and origin; find out what the store has already."""
        self._ask_store(trainer)
        old = [row for row in trainer.history.rows() if row.iteration <= self._stored]
        self._nonfinite_of(old)
        self._pictures = self._tracker.image_steps(CYCLE_PICTURES)
        budget = trainer.config.volumes_mb * 1e6 if self.volumes else 0.0
        self._cycles = CycleVolumes(budget, self._tracker.name)
        self._cycles.begin(self._iterations_of(FOLDER), trainer.validator.voxel_size_A)
        self._evidence.start(trainer, self._tracker.image_steps(ROLLBACK_PICTURES))
        self._begin, self._time = trainer.iteration, self._clock()
        self._in_force = trainer.hparams.flat()
        config = trainer.config
        self._tracker.put(records.Params(compared(config)))
        self._tracker.put(records.Text(config.to_yaml(), "config.yaml"))
        tags = {**provenance(config, trainer.device), "outcome": "running", "reason": ""}
        self._tracker.put(records.Tags(tags), records.Inputs(data_inputs(config, tags)))
        if not self._stored:  # what it starts from; MLflow's slider stands at 0 when the page opens
            self._picture(trainer.validator.images(trainer.model), trainer.iteration)
        self._tracker.flush()

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Write the iterations before this one, if it is time."""
        self._tracker.put(*self._evidence.outcomes(trainer))
        complete = trainer.iteration - 1
        self._due = self._due or self._evidence.news(trainer)
        if self._due:
            upto = complete
        elif self._clock() - self._time >= self.seconds:
            upto = complete - complete % (self.every or 1)
        else:
            return
        if upto > self._seen:
            self._collect(trainer, upto)
            self._tracker.flush()

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Take the score and its parts, the gate, and the picture."""
        self._due = True
        self._evidence.validated(report)
        self._extra[report.iteration].update(report.metrics)
        if trainer.best_score is not None:  # MLflow sorts runs by a metric's last value
            self._extra[report.iteration]["score/best"] = trainer.best_score
        gate = report.gate or "passed"
        if gate != self._gate:
            self._gate = gate
            self._tracker.put(records.Tags({"gate": gate}))
        self._tracker.put(*self._cycles.validated(report))
        self._picture(report.images, report.iteration)
        self._validated = report.iteration

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Take the picture of the event; the rest is read from the trainer's list."""
        self._due = True
        self._tracker.put(*self._evidence.fall(trainer, event))

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Write what is left, the last volumes, and the status."""
        self._tracker.put(*self._cycles.ended())
        status: Status = "FINISHED" if result.outcome == "completed" else "KILLED"
        self._finish(trainer, status, result.outcome, result.reason, result)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Write what is left, and the failure."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._finish(trainer, "KILLED", "interrupted", type(error).__name__)
        else:
            message = f"{type(error).__name__}: {error}"
            self._finish(trainer, "FAILED", "failed", message)

    def close(self) -> None:
        """Write the status, when every callback has ended."""
        if self._end is None:
            return
        result, end = self._end
        self._end = None
        if result is not None and self._finals is not None:
            self._tracker.put(*self._finals(result))
        self._tracker.put(end)
        self._tracker.close()

    def catch_up(self, past: PastTraining, result: TrainResult) -> None:
        """Write what the store lacks of a training that has ended, and its status."""
        trainer = cast("Trainer", past)
        self.load_state_dict(past.callbacks.get(self.name, {}))
        self._ask_store(trainer)
        self._evidence.start(trainer, set())
        self._in_force, self._time = self._evidence.initial, self._clock()
        self._validated = trainer.iteration  # it has ended, so nothing of it is to come
        status: Status = "FINISHED" if result.outcome == "completed" else "KILLED"
        self._finish(trainer, status, result.outcome, result.reason, result)
        self.close()

    def settle(self) -> bool:
        """Wait until all that was collected is stored; return False if the store is away."""
        return self._tracker.drain()

    def state_dict(self) -> dict[str, Any]:
        """Return what the store does not have yet, and what the trainer forgets of its past."""
        unsent = {s.iteration: dict(s.values) for s in merge(self._tracker.unsent())}
        for iteration, values in self._extra.items():
            unsent.setdefault(iteration, {}).update(values)
        return {**self._evidence.state_dict(), "unsent": unsent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self._evidence.load_state_dict(state)
        self._unsent = dict(state.get("unsent", {}))

    # -- from the trainer to the tracker --------------------------------------------------------

    def _ask_store(self, trainer: Trainer) -> None:
        """Find out what the store has already, and take over what it lacked in the checkpoint."""
        self._stored = self._tracker.last_iteration()
        for iteration, values in self._unsent.items():
            self._extra[iteration].update(values)
        self.every = self.every or trainer.config.log_every

    def _picture(self, images: Mapping[str, Tensor], iteration: int) -> None:
        if self.images and iteration not in self._pictures:
            self._pictures.add(iteration)
            self._tracker.put(records.Picture(six_images(images), CYCLE_PICTURES, iteration))

    def _collect(self, trainer: Trainer, upto: int) -> None:
        """Hand the points after `_seen`, the one at `upto` included, to the tracker."""
        now = self._clock()
        self._add_speed(trainer, upto, now)
        self._add_hparams(trainer, upto)
        self._add_rollbacks(trainer, upto)
        # An earlier process wrote the points up to here; MLflow would keep a second copy of each.
        first, every = max(self._stored, self._seen), self.every or 1
        regular = range(first + every - first % every, upto + 1, every)
        points = sorted({*regular, *(i for i in self._extra if first < i <= upto), upto} - {0})
        values: dict[int, dict[str, float]] = {i: {} for i in points if i > first}
        for end, rows in spans(trainer.history.rows(after=first), values).items():
            values[end] = row_values(mean_row(rows)) | self._nonfinite_of(rows)
        taken = [iteration for iteration in self._extra if iteration <= upto]
        for iteration in taken:
            if iteration in values:
                values[iteration] |= self._extra[iteration]
        start = max(self._seen, self._begin)
        times = interpolate(list(values), (start, self._time), (upto, now))
        if values:
            pairs = zip(values.items(), times, strict=True)
            samples = [Sample(iteration, found, at) for (iteration, found), at in pairs]
            self._tracker.put(records.Samples(tuple(samples)))
        self._seen, self._time, self._due = upto, now, False
        for iteration in taken:  # not earlier: an interruption before `put` must not lose a score
            del self._extra[iteration]
        if self._evidence.news(trainer):
            self._tracker.put(*self._evidence.documents(trainer))

    def _add_speed(self, trainer: Trainer, upto: int, now: float) -> None:
        """Add steps and voxels (of both domains) per second of wall time, validation included."""
        done, elapsed = upto - max(self._seen, self._begin), now - self._time
        if done > 0 and elapsed > 0:
            config = trainer.config
            patch = math.prod(config.imsize_A) + math.prod(config.imsize_B)
            voxels = config.batch_size * patch
            self._extra[upto]["speed/steps_per_s"] = done / elapsed
            self._extra[upto]["speed/voxels_per_s"] = voxels * done / elapsed

    def _nonfinite_of(self, rows: list[Row]) -> dict[str, float]:
        """Count the values that are NaN or infinite and therefore not charted."""
        count = sum(not math.isfinite(v) for row in rows for v in row.values.values())
        self._nonfinite += count
        return {"nonfinite": float(self._nonfinite)} if count else {}

    def _iterations_of(self, folder: str) -> set[int]:
        names = (
            Path(name).stem.rpartition("_")[2] for name in self._tracker.artifact_names(folder)
        )
        return {int(name) for name in names if name.isdigit()}

    def _add_hparams(self, trainer: Trainer, upto: int) -> None:
        """Hyperparameters at `upto`, and before and after each change: charts then show steps."""
        after = self._seen or -1  # changes by another callback before the first step count, too
        for change in trainer.hparam_log:
            if not after < change.iteration <= upto:
                continue
            for name, value in change.changes.items():
                before = self._in_force[name]
                if value != before and change.iteration > self._begin:
                    self._extra[change.iteration - 1].setdefault(f"hparam/{name}", before)
                self._extra[change.iteration][f"hparam/{name}"] = value
                self._in_force[name] = value
        self._extra[upto].update({f"hparam/{n}": value for n, value in self._in_force.items()})
        if trainer.config.lr_schedule.kind != "constant":  # else they are the hyperparameters
            self._extra[upto].update({f"rate/{n}": value for n, value in trainer.rates.items()})

    def _add_rollbacks(self, trainer: Trainer, upto: int) -> None:
        """Rollbacks, and which attempt is under way."""
        attempts = trainer.config.hp_optimizer.enabled
        points = rollback_points(trainer.rollbacks, self._seen, upto, attempts=attempts)
        for iteration, values in points.items():
            self._extra[iteration].update(values)

    def _whole(self, trainer: Trainer) -> int:
        """Return the last iteration that has everything, its score too where one is due.

        An interrupted validation has none. A resumed training computes that iteration again, and
        writes it only if it is not in the store yet.
        """
        config = trainer.config
        due = trainer.step % config.validate_every == 0 or trainer.step == config.steps
        whole = not due or self._validated == trainer.iteration or trainer.iteration <= self._begin
        return trainer.iteration if whole else trainer.iteration - 1

    def _finish(
        self,
        trainer: Trainer,
        status: Status,
        outcome: str,
        reason: str,
        result: TrainResult | None = None,
    ) -> None:
        try:
            if len(trainer.history):
                self._tracker.put(*self._evidence.outcomes(trainer, final=True))
                if trainer.rollbacks:
                    self._tracker.put(*self._evidence.documents(trainer))
                self._collect(trainer, self._whole(trainer))
        except RuntimeError as error:  # a GPU that failed keeps the metrics that wait on it
            log.warning("run %s: the last metrics are lost: %s", self._tracker.name, error)
        self._tracker.put(records.Tags({"outcome": outcome}))
        at_ms = round(1000 * self._clock())
        self._end = result, records.End(status, " ".join(reason.split()), at_ms)


def steady_clock() -> Callable[[], float]:
    """Return a clock, in seconds since 1970, that ignores later corrections of the system's clock.

    With a clock that was set back an hour, metrics would wait an hour to be sent.
    """
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()
