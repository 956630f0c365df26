"""Observation changes nothing: callbacks that only read leave every loss bit for bit the same."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.config import HPOptimizer
from search.rollback import RollbackOptimizer
from search.study.pruners import Pruner
from search.study.pruning import PruningCallback
from tracking import Store, TrackingCallback

IDLE = HPOptimizer(enabled=True, snapshot_every=3, check_every=3, warmup=1000, fall_back=6)


def tracking() -> Callback:
    store = Store.open()
    run = store.create_run("neutral", "run", kind="train", params={}, tags={})
    return TrackingCallback(run, every=5)


def pruning() -> Callback:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    return PruningCallback(study.ask(), Pruner(name="median"))


def rollback() -> Callback:
    return RollbackOptimizer(IDLE)


@pytest.fixture(scope="module")
def plain(tiny) -> list[dict[str, float]]:
    return losses(parse_config(tiny))


def losses(config: Config, *callbacks: Callback) -> list[dict[str, float]]:
    trainer = Trainer(config, callbacks)
    trainer.fit()
    assert trainer.iteration == 12
    return [row.values for row in trainer.history.rows()]


@pytest.mark.parametrize(
    "makers",
    [[tracking], [pruning], [rollback], [tracking, pruning, rollback]],
    ids=["tracking", "pruning", "idle rollback", "all"],
)
def test_callbacks_that_only_look_change_no_loss(
    config: Config, plain: list[dict[str, float]], makers: list, project: Path
) -> None:
    assert losses(config, *[make() for make in makers]) == plain
