"""Rollbacks in a training's run: metrics, pictures, and two documents.

```
metrics             rollbacks, rollback/severity at the event; attempt, 0 while nothing is wrong
pictures            series "Cycle/rollbacks": before and after the fall, then what became of it
rollbacks.json      the events, for programs; strict JSON, where null stands for infinite
rollback_path.html  accepted path, discarded attempts and a table of the events, for people
```
The events and what became of them are the trainer's (`Trainer.rollbacks`), which a checkpoint has;
here is only what the trainer doesn't keep: the score of every validation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cyclegan.hparams import HParams
from cyclegan.numbers import only_finite, strict_json
from tracking.outbox import records
from tracking.views import ROLLBACK_PICTURES
from viz.pictures import captioned, six_images
from viz.rollback import TrainingPath, ValidationScore, loss_panels, path_page

if TYPE_CHECKING:
    from cyclegan.events import RollbackEvent
    from cyclegan.trainer import Trainer
    from cyclegan.validation import ValidationReport

log = logging.getLogger(__name__)

RECORD, PAGE = "rollbacks.json", "rollback_path.html"
_LINE = 90
"""Characters of a reason that fit over a picture."""


class RollbackEvidence:
    """Watches the trainer's list of rollbacks and tells what is to be written."""

    def __init__(self, *, images: bool = True) -> None:
        self.images = images
        self._pictures: set[int] = set()  # iterations of which the store has a picture
        self._written: list[RollbackEvent] = []
        self._concluded: set[int] = set()  # rollbacks, from 0, whose outcome has its picture
        self._scores: list[ValidationScore] = []
        self._initial: dict[str, float] = {}
        self._last: tuple[int, int, Mapping[str, Tensor]] | None = None  # while one is open

    def start(self, trainer: Trainer, pictures: set[int]) -> None:
        """The training begins or goes on; `pictures`: iterations of those in the store.

        The documents of another process are written again: it may have died before it wrote them.
        """
        self._pictures = pictures
        if not self._initial:
            changed = bool(trainer.hparam_log)
            first = HParams.from_config(trainer.config) if changed else trainer.hparams
            self._initial = first.flat()
        self._concluded = {i for i, event in enumerate(trainer.rollbacks) if event.outcome}

    @property
    def initial(self) -> dict[str, float]:
        """The hyperparameters of the start."""
        return dict(self._initial)

    def validated(self, report: ValidationReport) -> None:
        """Keep the score: a discarded one, too."""
        self._scores.append(ValidationScore(report.iteration, report.score, report.gate is None))

    def news(self, trainer: Trainer) -> bool:
        """Return True if the documents lack an event or an outcome."""
        return trainer.rollbacks != self._written

    # -- pictures -----------------------------------------------------------------------------

    def fall(self, trainer: Trainer, event: RollbackEvent) -> Iterator[records.Picture]:
        """Record the images at the fault and, of the same patches, by the restored networks."""
        if not self.images or event.iteration in self._pictures:
            return
        number = len(trainer.rollbacks)
        attempt = f"attempt {event.cause.attempt}"
        if event.kickstart:
            attempt += f", kickstart for {event.kickstart} steps"
        try:
            restored = _translated(trainer)
        except RuntimeError as error:  # no memory for it, say: the training is worth more
            log.warning("rollback %d has no picture: %s", number, error)
            return
        before = f"rollback {number}: step {event.from_step}, before\n{_cut(event.reason)}"
        after = f"step {event.to_step}, after falling back\n{attempt}"
        shown = {before: six_images(trainer.images), after: six_images(restored)}
        self._pictures.add(event.iteration)
        yield records.Picture(captioned(shown), ROLLBACK_PICTURES, event.iteration)

    def outcomes(self, trainer: Trainer, *, final: bool = False) -> Iterator[records.Picture]:
        """The images of the moment when it was known what became of a rollback.

        To be asked at every step. Another callback may conclude a rollback before or after this one
        sees the step, so a step's pictures wait for the next step, or for the end (`final`). Where
        the training fell back again at once, the picture of that rollback shows it.
        """
        now = (trainer.iteration, trainer.step, trainer.images)
        falls = {event.iteration for event in trainer.rollbacks}
        for i, event in enumerate(trainer.rollbacks):
            if i in self._concluded or not event.outcome:
                continue
            at = event.concluded
            if at >= trainer.iteration and not final:
                continue
            self._concluded.add(i)
            seen = now if at == trainer.iteration else self._last
            if self.images and at not in falls | self._pictures and seen and seen[0] == at:
                title = f"rollback {i + 1}: {event.outcome} at step {seen[1]}"
                self._pictures.add(at)
                yield records.Picture(
                    captioned({title: six_images(seen[2])}), ROLLBACK_PICTURES, at
                )
        known = len(self._concluded) == len(trainer.rollbacks)
        self._last = None if known else now

    # -- documents ----------------------------------------------------------------------------

    def documents(self, trainer: Trainer) -> Iterator[records.Text]:
        """Both documents anew."""
        self._written = list(trainer.rollbacks)
        yield records.Text(strict_json([event.to_plain() for event in self._written]), RECORD)
        try:
            yield records.Text(path_page(self.path(trainer)), PAGE)
        except Exception as error:  # noqa: BLE001  (a drawing must never end a training)
            log.warning("%s can't be drawn: %s: %s", PAGE, type(error).__name__, error)

    def path(self, trainer: Trainer) -> TrainingPath:
        """The way of the training so far."""
        return TrainingPath(
            name=trainer.config.run_name,
            rows=trainer.history.rows(),
            rollbacks=tuple(trainer.rollbacks),
            changes=tuple(trainer.hparam_log),
            initial=self._initial,
            losses=loss_panels(trainer.config),
            scores=tuple(self._scores),
        )

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Scores of all validations, and the hyperparameters of the start."""
        scores = [[v.iteration, v.score, v.usable] for v in self._scores]
        return {"scores": scores, "initial": dict(self._initial)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over; states of earlier versions have none."""
        self._scores = [ValidationScore(*values) for values in state.get("scores", [])]
        self._initial = dict(state.get("initial", {}))


def attempt_at(rollbacks: Sequence[RollbackEvent], iteration: int) -> int:
    """Return the number of the attempt in a row that is under way; 0 if nothing is wrong.

    From a rollback's iteration until it is known what became of it.
    """
    for event in reversed(rollbacks):
        if event.iteration <= iteration:
            over = event.outcome and iteration >= max(event.concluded, event.iteration + 1)
            return 0 if over else event.cause.attempt
    return 0


def rollback_points(
    rollbacks: Sequence[RollbackEvent], after: int, upto: int, *, attempts: bool
) -> dict[int, dict[str, float]]:
    """Values of charts by iteration, from the one after `after` on to `upto`.

    An attempt stands before and after each change, so that the chart shows steps.
    """
    points: dict[int, dict[str, float]] = {}
    for number, event in enumerate(rollbacks, start=1):
        if after < event.iteration <= upto:
            values = {"rollbacks": float(number), "rollback/severity": event.cause.severity}
            points[event.iteration] = only_finite(values)
    if attempts:
        changes = {event.iteration for event in rollbacks}
        changes |= {max(e.concluded, e.iteration + 1) for e in rollbacks if e.outcome}
        inside = {i for i in changes if after < i <= upto}
        for i in sorted({*inside, *(i - 1 for i in inside), upto}):
            points.setdefault(i, {})["attempt"] = float(attempt_at(rollbacks, i))
    return points


def _translated(trainer: Trainer) -> dict[str, Tensor]:
    """The last batch's first patches through the networks as they are now; nothing else changes."""
    real_A, real_B = (trainer.images[name][:1] for name in ("real_A", "real_B"))
    with torch.no_grad(), trainer.model.autocast():
        images = trainer.model.cycle(real_A, real_B)
    return {name: image.float() for name, image in images.items()}


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."
