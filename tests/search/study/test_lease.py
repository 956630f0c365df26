"""Leases tell a RUNNING trial in training from one that was left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.study import lease
from search.study.lease import LEASE_SECONDS, Owner, host, is_held, lease_holds, renewing


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({}, False),  # never claimed, or given back
        ({"owner": "x", "host": "far", "pid": 1, "at": 1000.0}, True),
        ({"owner": "x", "host": "far", "pid": 1, "at": 1000.0 - LEASE_SECONDS}, False),
        ({"owner": "x", "host": "here", "pid": 1, "at": 1000.0}, False),  # its lock was removed
        ({"owner": "dead", "host": "here", "pid": 1, "at": 1000.0}, False),  # its lock is free
        ({"owner": "dead", "host": "far", "pid": 1, "at": 1000.0}, True),  # can't be asked there
    ],
)
def test_a_lease_holds(tmp_path: Path, given: dict[str, Any], held: bool) -> None:
    (tmp_path / "dead.lock").touch()
    assert lease_holds(given, tmp_path, 1001.0, "here") == held


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
