"""Updates the report of a study while it runs, and writes it to a file on demand.

A thread beside the trials watches the study's storage. It writes the report right after a trial
ends, and at most once a minute after any other news. If several processes work on a study, on one
host or several, only one writes the report: the process whose mark in the study's attributes is
fresh. When the mark gets old, another process takes over. A store that fails or hangs costs the
report, but never the study.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cyclegan.errors import DataError, UsageError
from cyclegan.files import refuse_overwrite, write_text
from search.study.lease import LEASE_SECONDS
from search.study.objective import TIME, short
from search.study.report.facts import Evidence, Facts, gather
from search.study.report.page import study_page
from search.study.report.panels import run_name
from search.study.study import StudyHandle
from search.study.trials import declared_keys, searched_keys
from tracking.views import link_between_runs
from viz.text import short_names, short_text
from viz.units import short_time

if TYPE_CHECKING:
    from tracking import Store


REPORT = "report.html"
"""Name of the report among the artifacts of the study's run."""
_KEEPER = "report"
"""Attribute of the study that names the process that writes its report, and when it last did."""
_LOOK_SECONDS = 5.0
_EVERY_SECONDS = 60.0
_SHARE = 20.0
"""Between two reports at least this many times the time that the last one took: it is work that a
training on the same processor waits for, and with thousands of trials it takes long."""
_PATIENCE = 30.0
"""Seconds for which the end of a study waits for the last report."""
_log = logging.getLogger(__name__)


class ReportUpdater:
    """Updates the report; use it as a context manager around the study.

    Set `end` to the outcome of the study before leaving.

    Args:
        store, parent: the store and the id of the study's own MLflow run.
        every: seconds between reports while no trial ends.
        look: seconds between looks at the study's storage.
        clock: returns seconds since some moment; nobody must be able to set it.
    """

    def __init__(
        self,
        handle: StudyHandle,
        store: Store,
        parent: str,
        *,
        every: float = _EVERY_SECONDS,
        look: float = _LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handle, self.store, self.parent = handle, store, parent
        self.every, self.look, self._clock = every, look, clock
        self.id = uuid.uuid4().hex
        self.end = "finished"
        self._evidence: Evidence | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="report", daemon=True)
        self._written: Any = None
        self._noted = ""
        self._ended = -1
        self._last = -float("inf")
        self._took = 0.0
        """Seconds that the last report took."""
        self._mark: Mapping[str, Any] = {}
        self._since = 0.0
        """Time at which `_mark` was first seen here."""
        self._moved = False
        self._warned = False

    def __enter__(self) -> ReportUpdater:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            words = " ".join(str(error).split())[:200]
            stopped = f"stopped: {words or type(error).__name__}"
            self.end = stopped if isinstance(error, Exception) else "interrupted"
        self._over.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            _log.warning("the study's last report was not written: the store does not answer")

    def write(self, state: str, *, always: bool = False) -> bool:
        """Write the report if there is news, or if `always`. Return True if it was written."""
        self._last = started = self._clock()
        try:
            facts = self._gathered(state)
            if not always and _content(facts) == self._written:
                return False
            self._put(facts)
        except Exception as error:  # noqa: BLE001  (a report must never end a study)
            if not self._warned:
                _log.warning("the study's report can't be written now: %s", error)
            self._warned = True
            return False
        finally:
            self._last = self._clock()
            self._took = self._last - started
        self._warned = False
        return True

    def _keep(self) -> None:
        while not self._over.wait(self.look):
            try:
                due = self._due()
            except Exception:  # noqa: BLE001, S112  (a storage that is away may be back soon)
                continue
            if due:
                self.write("running")
        self.write(self.end, always=True)

    def _due(self) -> bool:
        """Return True if a report is due and this process is the one to write it."""
        # With hundreds of workers one reads the trials, not all of them.
        if not self._leads() or self._clock() - self._last < _SHARE * self._took:
            return False
        trials = self.handle.study.get_trials(deepcopy=False)
        ended = sum(trial.state.is_finished() for trial in trials)
        fresh, self._ended = ended > self._ended, max(ended, self._ended)
        return fresh or self._clock() - self._last >= self.every

    def _leads(self) -> bool:
        """Claim the writing of the report; return False if another process writes it."""
        study, now = self.handle.study, self._clock()
        mark = study.user_attrs.get(_KEEPER) or {}
        if mark != self._mark:
            self._moved = bool(self._mark)
            self._mark, self._since = mark, now
        ours = bool(mark) and mark["owner"] == self.id
        if mark and not ours and now - self._since < LEASE_SECONDS:
            # As with a lease: clocks may be wrong, so what counts is whether the stamp moves.
            seen = self._moved or abs(time.time() - float(mark["at"])) < LEASE_SECONDS
            if seen:
                return False
        if not ours or now - self._since >= self.every / 2:
            self._mark, self._since = {"owner": self.id, "at": time.time()}, now
            study.set_user_attr(_KEEPER, dict(self._mark))
        return True

    def _gathered(self, state: str) -> Facts:
        if self._evidence is None:
            self._evidence = Evidence(self.store, self.parent)
        return gather(self.handle, self._evidence, state)

    def _put(self, facts: Facts) -> None:
        assert self._evidence is not None
        run = self._evidence.parent
        run.log_text(study_page(facts), REPORT)
        table = best_table(facts)
        if table and table != self._noted:
            run.annotate(BEGIN, table)
            self._noted = table
        self._written = _content(facts)


def _content(facts: Facts) -> Any:
    """Return the content that makes a report differ from the one before; time alone does not."""
    trials = [(r.number, r.state, r.score, len(r.curve), r.run_id) for r in facts.records]
    return facts.state, trials, facts.parts, [(s.trial, s.iteration) for s in facts.slices]


# -- The best trials as a table in the description of a study's run ----------------------------

BEGIN = "| Rank |"
"""First characters of the table, by which it is found again."""


_ROWS = 10
_KEYS = 6


def best_table(facts: Facts) -> str:
    """Return the table in Markdown without its start `BEGIN`.

    The table is empty until a trial has a run and a score.
    """
    shown = [r for r in facts.records if r.run_id and r.score is not None][:_ROWS]
    if not shown:
        return ""
    keys = searched_keys(shown, declared_keys(facts.handle.definition.space))[:_KEYS]
    names = short_names(keys)
    further = [name for name in facts.handle.definition.objective[1:] if name != TIME]
    columns = ["trial", "state", "score", *map(short, further), *(names[key] for key in keys)]
    columns += ["iterations", "time"]
    lines = [" | ".join(map(_cell, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for record in shown:
        link = link_between_runs(facts.experiment_id, record.run_id)
        cells = [
            str(facts.ranks.get(record.number, "")),
            f"[{_cell(run_name(facts, record))}]({link})",
            record.state,
            f"{record.score:.2f}",
            *(f"{record.objectives[n]:.3g}" if record.objectives else "" for n in further),
            *(_cell(short_text(record.values.get(key, ""))) for key in keys),
            f"{record.iteration:,}",
            short_time(record.seconds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return text, escaped so that it can neither end a cell nor begin markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>|" else c for c in text)


# -- The page of a study as a file, for use without an MLflow server ---------------------------


def write_report(
    handle: StudyHandle, store: Store, output: Path, *, overwrite: bool = False
) -> None:
    """Write the page to `output`; slices and parts of scores are left out if the store lacks them.

    Errors: `UsageError` if `output` is no HTML file; `DataError` if it exists and `overwrite` is
    off; `CycleGANError` if the store fails.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: the name must end in .html")
    refuse_overwrite(output, overwrite)
    write_text(output, study_page(gather(handle, _evidence(handle, store), state_of(handle))))


def state_of(handle: StudyHandle) -> str:
    """Return `running`, `finished` or `interrupted`, according to the study's trials."""
    states = {trial.state for trial in handle.trials()}
    if "running" in states:
        return "running"
    return "interrupted" if states & {"interrupted", "paused"} or not states else "finished"


def _evidence(handle: StudyHandle, store: Store) -> Evidence | None:
    run_id = handle.study.user_attrs.get("mlflow_run_id")
    try:
        return Evidence(store, run_id) if run_id else None
    except DataError:  # deleted, or in another store
        return None
