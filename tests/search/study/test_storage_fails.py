"""An error of the storage is not an outcome of a trial: the study stops, and goes on later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from cyclegan.callbacks import Callback
from cyclegan.errors import CycleGANError
from search.study import StudyHandle, run_study
from search.study import trial as trial_module
from search.study.definition import StudyDefinition
from tracking import Store
from viz.console import Console

Define = Callable[..., StudyDefinition]


class FullDisk:
    """A disk on which the journal's entries `full_at` find no room, and are written by half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full_at: Collection[int]) -> None:
        self.entries = 0
        append = JournalFileBackend.append_logs

        def limited(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            self.entries += 1
            if self.entries in full_at:
                with Path(backend._file_path).open("ab") as file:
                    file.write(b'{"op_code":9,"wor')
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(backend, logs)

        monkeypatch.setattr(JournalFileBackend, "append_logs", limited)


def run(definition: StudyDefinition) -> StudyHandle:
    return run_study(definition, store=Store.open(), console=Console(quiet=True)).handle


def comparable(handle: StudyHandle) -> list[Any]:
    return [
        (t.number, t.state, t.score, t.values, t.curve, t.step, t.iteration)
        for t in handle.trials()
    ]


def test_a_study_on_a_disk_that_is_full_at_times_ends_as_if_undisturbed(
    define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"trials": 2, "report_every": 6}
    whole = run(define("whole", **changes))
    FullDisk(monkeypatch, full_at=(2, 14, 30, 48))
    definition = define("disturbed", **changes)
    for _ in range(4):
        with pytest.raises(CycleGANError) as caught:
            run(definition)
        for text in ("journal.log", "No space left on device", "run the study again"):
            assert text in str(caught.value)
    handle = run(definition)
    assert comparable(handle) == comparable(whole)
    assert {trial.deaths for trial in handle.trials()} == {0}


class _Unreadable(Callback):
    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", "data/fast.h5")


def test_a_file_that_cannot_be_read_stops_the_study_and_fails_no_trial(
    define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition, train = define(trials=1), trial_module.run_training

    def unreadable(job: Any, *, callbacks: Any, **other: Any) -> Any:
        return train(job, callbacks=[*callbacks, _Unreadable()], **other)

    with monkeypatch.context() as broken:
        broken.setattr(trial_module, "run_training", unreadable)
        with pytest.raises(CycleGANError, match=r"data/fast\.h5 can't be used: Input/output error"):
            run(definition)
    assert [trial.state for trial in run(definition).trials()] == ["complete"]
