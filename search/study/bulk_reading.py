"""A database storage that reads thousands of trials in seconds.

Optuna makes an object of every row, which takes a multiple of the time of the query. Here, plain
queries read the trials, one for each table; all writing is Optuna's own. Tables of another version
than the one known here are read by Optuna.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

_KNOWN_TABLES = 12
"""Version of Optuna's tables for which the queries are."""
_MOST_NAMED = 500
"""Most trials that a query names; databases limit the length of a query."""

Rows = dict[int, list[Any]]
"""Rows of a table by the id of their trial."""


class BulkReadingStorage(RDBStorage):
    """Optuna's storage in a database, with a faster way to read many trials."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return those trials of a study that are named or have a higher id, by their ids."""
        named = sorted(i for i in included_trial_ids if i <= trial_id_greater_than)
        if models.SCHEMA_VERSION != _KNOWN_TABLES or len(named) > _MOST_NAMED:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        columns = models.TrialModel.__table__.c
        which = [columns.study_id == study_id]
        if trial_id_greater_than > -1:
            newer = columns.trial_id > trial_id_greater_than
            which.append(sqlalchemy.or_(columns.trial_id.in_(named), newer) if named else newer)
        if states is not None:
            assert isinstance(states, Iterable)
            which.append(columns.state.in_(list(states)))
        with _create_scoped_session(self.scoped_session) as session, _without_collection():
            models.StudyModel.find_or_raise_by_id(study_id, session)
            return _read(session, sqlalchemy.and_(*which))


def _read(session: Session, which: sqlalchemy.ColumnElement[bool]) -> list[FrozenTrial]:
    columns = models.TrialModel.__table__.c
    names = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    chosen = sqlalchemy.select(*(columns[name] for name in names)).where(which)
    trials = session.execute(chosen.order_by(columns.trial_id)).all()
    if not trials:
        return []
    ids = sqlalchemy.select(columns.trial_id).where(which)

    def rows(model: Any, *names: str) -> Rows:
        its = model.__table__.c
        (key,) = model.__table__.primary_key
        query = sqlalchemy.select(its.trial_id, *(its[name] for name in names))
        by_trial: Rows = defaultdict(list)
        found = session.execute(query.where(its.trial_id.in_(ids)).order_by(key)).all()
        for trial_id, *rest in found:
            by_trial[trial_id].append(rest)
        return by_trial

    params = rows(models.TrialParamModel, "param_name", "param_value", "distribution_json")
    values = rows(models.TrialValueModel, "objective", "value", "value_type")
    own, systems = (
        rows(model, "key", "value_json")
        for model in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel)
    )
    named = ("step", "intermediate_value", "intermediate_value_type")
    reports = rows(models.TrialIntermediateValueModel, *named)
    value_of = models.TrialValueModel.stored_repr_to_value
    report_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[value_of(*one[1:]) for one in sorted(values[i], key=_first)] or None,
            datetime_start=_local(start),
            datetime_complete=_local(end),
            params={
                name: _distribution(text).to_external_repr(value) for name, value, text in params[i]
            },
            distributions={name: _distribution(text) for name, _, text in params[i]},
            user_attrs={key: json.loads(text) for key, text in own[i]},
            system_attrs={key: json.loads(text) for key, text in systems[i]},
            intermediate_values={step: report_of(*rest) for step, *rest in reports[i]},
            trial_id=i,
        )
        for i, number, state, start, end in trials
    ]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the search for unreachable cycles; among so many new objects it doubles the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _first(row: list[Any]) -> Any:
    return row[0]


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(utc: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time in this machine's zone; the database has them in UTC."""
    return utc and utc.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)
