"""Leases tell a RUNNING trial in training from one that was left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.study import lease
from search.study.lease import (
    LEASE_SECONDS,
    MOST_SKEW,
    Owner,
    host,
    hours,
    is_doubtful,
    is_held,
    lease_holds,
    renewing,
    touch,
)


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({}, False),  # never claimed, or given back
        ({"owner": "x", "host": "far", "pid": 1, "at": 1000.0}, True),
        ({"owner": "x", "host": "far", "pid": 1, "at": 1001.0 - 3600.0}, True),  # its clock is slow
        ({"owner": "x", "host": "far", "pid": 1, "at": 1001.0 + 3600.0}, True),  # or fast
        ({"owner": "x", "host": "far", "pid": 1, "at": 1001.0 - MOST_SKEW}, False),
        ({"owner": "x", "host": "far", "pid": 1, "at": 1001.0 + MOST_SKEW}, False),
        ({"owner": "x", "host": "here", "pid": 1, "at": 1000.0}, False),  # its lock was removed
        ({"owner": "dead", "host": "here", "pid": 1, "at": 1000.0}, False),  # its lock is free
        ({"owner": "dead", "host": "far", "pid": 1, "at": 1000.0}, True),  # can't be asked there
    ],
)
def test_a_lease_holds(tmp_path: Path, given: dict[str, Any], held: bool) -> None:
    (tmp_path / "dead.lock").touch()
    assert lease_holds(given, tmp_path, 1001.0, "here") == held


@pytest.mark.parametrize(
    ("skew", "unmoved", "moved", "held"),
    [
        (0.0, LEASE_SECONDS - 1, False, True),
        (0.0, LEASE_SECONDS, False, False),
        (3600.0, LEASE_SECONDS, True, False),
        (86_400.0, 20.0, True, True),  # it moved: the worker lives, whatever its clock says
    ],
)
def test_whether_the_stamp_of_another_host_moves_decides(
    tmp_path: Path, skew: float, unmoved: float, moved: bool, held: bool
) -> None:
    given = {"owner": "x", "host": "far", "pid": 1, "at": 1000.0 + skew}
    assert lease_holds(given, tmp_path, 1000.0, "here", unmoved=unmoved, moved=moved) == held


def test_a_dead_worker_of_a_host_with_a_fast_clock_is_found_dead(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, clock = study.ask(), [0.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])

    def renewed(seconds: float) -> None:
        at = time.time() + 3600 + seconds
        stamp = {"owner": "skewed", "host": "far", "pid": 1, "at": at}
        trial.set_user_attr("lease", stamp)

    renewed(0)
    assert is_held(study.trials[0], tmp_path)
    assert is_doubtful(study.trials[0])
    for clock[0] in (100.0, 200.0):
        renewed(clock[0])
        assert is_held(study.trials[0], tmp_path)
    assert not is_doubtful(study.trials[0])
    clock[0] = 200.0 + LEASE_SECONDS
    assert not is_held(study.trials[0], tmp_path)


def test_a_clock_that_is_set_adds_no_hours(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, wall = [0.0], [1000.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lease.time, "time", lambda: wall[0])
    owner = Owner(tmp_path)
    clock[0], wall[0] = 1800.0, 1000.0 + 5 * 3600  # half an hour later, the clock is set right
    touch(study, owner)
    assert hours(study.user_attrs) == pytest.approx(0.5)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_a_trial_is_held_from_claim_to_release(study: optuna.Study, tmp_path: Path) -> None:
    trial = study.ask()
    with Owner(tmp_path) as owner, Owner(tmp_path) as other:
        owner.claim(study._storage, trial._trial_id)
        assert is_held(study.trials[0], tmp_path)
        assert owner.holds(study._storage, trial._trial_id)
        assert not other.holds(study._storage, trial._trial_id)
        owner.release(study._storage, trial._trial_id)
        assert not is_held(study.trials[0], tmp_path)
    assert not list((tmp_path / "workers").iterdir())
    assert host() == host()


def test_a_lease_is_renewed_and_its_loss_is_noticed(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    trial = study.ask()
    lost = threading.Event()
    with Owner(tmp_path) as owner, Owner(tmp_path) as other:
        owner.claim(study._storage, trial._trial_id)
        before = study.trials[0].user_attrs["lease"]["at"]
        with renewing(owner, study, trial._trial_id, lost.set):
            while study.trials[0].user_attrs["lease"]["at"] == before:
                assert not lost.is_set()
            other.claim(study._storage, trial._trial_id)
            assert lost.wait(timeout=10)
        assert other.holds(study._storage, trial._trial_id)


# -- Leases of workers in SLURM jobs -----------------------------------------------------------


@pytest.fixture
def elsewhere(study: optuna.Study) -> Callable[..., optuna.trial.FrozenTrial]:
    """Return a function that lets a worker on another host, in a job, claim a trial."""

    def claimed(**lease: Any) -> optuna.trial.FrozenTrial:
        trial = study.ask()
        at = round(time.time(), 3)
        stamp = {"owner": f"w{trial.number}", "host": "far", "pid": 1, "at": at, **lease}
        trial.set_user_attr("lease", stamp)
        return study.trials[trial.number]

    return claimed


@pytest.mark.parametrize(("gone", "held"), [(True, False), (False, True), (None, True)])
def test_slurm_tells_of_a_dead_job_before_its_lease_runs_out(
    elsewhere: Callable[..., optuna.trial.FrozenTrial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone: bool | None,
    held: bool,
) -> None:
    asked = []

    def answer(job: str, starts: int) -> bool | None:
        asked.append((job, starts))
        return gone

    monkeypatch.setattr(lease, "_asked", {})
    monkeypatch.setattr(lease.slurm, "is_gone", answer)
    trial = elsewhere(job="12", start=1)
    assert is_held(trial, tmp_path) is held
    assert is_held(trial, tmp_path) is held
    assert asked == [("12", 1)]  # not again within seconds


def test_a_restarted_job_knows_that_its_earlier_processes_are_gone(
    elsewhere: Callable[..., optuna.trial.FrozenTrial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_asked", {})
    monkeypatch.setattr(lease.slurm, "is_gone", lambda job, starts: None)
    trial = elsewhere(job="12", start=1)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert not is_held(trial, tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # another worker of the same job
    assert is_held(trial, tmp_path)


def test_a_lease_names_the_job(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = study.ask()
    with Owner(tmp_path) as owner:
        owner.claim(study._storage, trial._trial_id)
        assert "job" not in study.trials[0].user_attrs["lease"]
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setenv("CYCLEGAN_REQUEUES", "1")
        owner.claim(study._storage, trial._trial_id)
        noted = study.trials[0].user_attrs["lease"]
        assert (noted["job"], noted["start"], noted["requeues"]) == ("12", 0, True)
        assert lease.will_be_restarted(study.trials[0])
