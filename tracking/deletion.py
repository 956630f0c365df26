"""Delete runs for good: hide them, then remove their files, then their rows in the database.

With this order no files are left behind without a run. If the process is killed in between, the run
looks like one that was deleted in the user interface, and the next call finishes the deletion.
`mlflow gc` takes the same three steps. But even with `--run-ids` it removes every experiment that
was deleted in the user interface with all its runs (seen in 3.17), and it follows the address in
the database wherever that leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from tracking.errors import translated
from tracking.process import is_alive
from tracking.retention import Plan, RuleName, Rules, StoredRuns, guard, is_large, plan
from tracking.run_lookup import RunInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tracking.store import Store

FREED = "files_freed"
"""Tag of a run without its large files, with the time at which they were removed."""
_GONE = "someone else has deleted it meanwhile"
_FRESH_S = 10.0
"""Seconds after which a plan is made again: somebody may have promoted a trial meanwhile."""


@dataclass(frozen=True, kw_only=True)
class DeletionResult:
    """The outcome for one run of a plan."""

    run: RunInfo
    rule: RuleName
    bytes: int = 0
    rows: bool = False
    """True if its database rows were removed, too; a server keeps them, marked as deleted."""
    kept: str = ""
    """Reason why it was not deleted after all."""
    error: str = ""
    """Reason why its files could not be removed; it is hidden, and the next call tries again."""


def survey(store: Store) -> StoredRuns:
    """Read all that the rules need. Errors: `CycleGANError` if the store can't be read."""
    runs = store.search(stage="all")
    reasons = {run.id: store.artifacts(run).out_of_reach() for run in runs}
    return StoredRuns(
        runs=runs,
        registered=store.registry.of_runs({run.id for run in runs}),
        is_alive=is_alive,
        now_ms=round(1000 * time.time()),
        unreachable={run_id: reason for run_id, reason in reasons.items() if reason},
    )


def carry_out(
    store: Store, agreed: Plan, rules: Rules, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[DeletionResult]:
    """Delete the runs of `agreed` one by one, as long as `rules` still free them.

    Errors: `CycleGANError` if the store fails; runs deleted before that stay deleted.
    """
    current, made = survey(store), clock()
    ids = plan(current, rules).ids
    for run, rule in agreed.free:
        if clock() - made > _FRESH_S:
            current, made = survey(store), clock()
            ids = plan(current, rules).ids
        if run.id not in current.by_id:
            yield DeletionResult(run=run, rule=rule, kept=_GONE)
        elif run.id not in ids:
            yield DeletionResult(run=run, rule=rule, kept="it is now needed or in use")
        else:
            yield _free_or_gone(store, run, rule, current, artifacts_only=rules.artifacts_only)


def _free_or_gone(
    store: Store, run: RunInfo, rule: RuleName, current: StoredRuns, *, artifacts_only: bool
) -> DeletionResult:
    """Free `run`; it is no failure if another process deletes it at the same moment."""
    try:
        now = _stored_now(store, run)
        if now is not None:
            return _free(store, now, rule, current, artifacts_only=artifacts_only)
    except CycleGANError:
        if _stored_now(store, run) is not None:
            raise
    return DeletionResult(run=run, rule=rule, kept=_GONE)


def _stored_now(store: Store, run: RunInfo) -> RunInfo | None:
    return next(iter(store.search(None, f"attributes.run_id = '{run.id}'", stage="all")), None)


def _free(
    store: Store, now: RunInfo, rule: RuleName, current: StoredRuns, *, artifacts_only: bool
) -> DeletionResult:
    remover, reason = Remover.of(store), guard(now, current, named=rule == "named")
    if reason:
        return DeletionResult(run=now, rule=rule, kept=reason)
    if not artifacts_only and not now.deleted:
        remover.hide(now.id)
    try:
        count = store.artifacts(now).remove(is_large if artifacts_only else None)
    except CycleGANError as error:
        return DeletionResult(run=now, rule=rule, error=str(error))
    if not artifacts_only:
        return DeletionResult(run=now, rule=rule, bytes=count, rows=remover.free_rows(now.id))
    if not now.deleted:
        remover.mark(now.id)
    return DeletionResult(run=now, rule=rule, bytes=count)


class Remover:
    """Mark, hide and remove runs in the database."""

    def __init__(self, client: MlflowClient, where: str, *, is_server: bool) -> None:
        self._client, self._where, self._is_server = client, where, is_server

    @classmethod
    def of(cls, store: Store) -> Remover:
        """Return the remover of a store's runs."""
        where = store.location
        return cls(store.client, str(where), is_server=where.is_server)

    def mark(self, run_id: str) -> None:
        """Tag a run as one without its large files."""
        with translated(f"{self._where}: run {run_id} can't be marked"):
            self._client.set_tag(run_id, FREED, time.strftime("%Y-%m-%d %H:%M"))

    def hide(self, run_id: str) -> None:
        """Delete a run as the user interface does: it is hidden, and nobody can continue it."""
        with translated(f"{self._where}: run {run_id} can't be deleted"):
            self._client.delete_run(run_id)

    def free_rows(self, run_id: str) -> bool:
        """Remove a hidden run's metrics, parameters and tags; return False if a server keeps them.

        A run that is already gone is no error.
        """
        from mlflow.exceptions import MlflowException

        if self._is_server:
            return False
        rows = self._client._tracking_client.store
        try:
            with translated(f"{self._where}: the rows of run {run_id} can't be removed"):
                rows._hard_delete_run(run_id)
        except CycleGANError as error:
            cause = error.__cause__
            gone = isinstance(cause, MlflowException) and (
                cause.error_code == "RESOURCE_DOES_NOT_EXIST"
            )
            if not gone:
                raise
        return True
