"""The store of all runs: find or create the store, its experiments and its runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from cyclegan.addresses import without_secrets
from cyclegan.errors import BusyError, CycleGANError, DataError, UsageError, nearest
from cyclegan.locks import one_at_a_time
from tracking import run_lookup, views
from tracking.artifacts import Artifacts
from tracking.database import (
    Location,
    ensure,
    few_connections,
    first_use,
    locate,
    prepare,
    project_root,
)
from tracking.errors import translated
from tracking.moved import MovedStore
from tracking.process import PROCESS, is_alive, this_process
from tracking.registry import Registry
from tracking.run import Run
from tracking.run_lookup import MADE_AS, PARENT, ExperimentInfo, RunInfo, equal, hint
from tracking.schema import explained
from tracking.views import View

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun

__all__ = ["Store", "project_root"]

Stage = Literal["active", "deleted", "all"]
"""Selection of runs: those shown in the user interface, those deleted there, or both."""
_RUN_ID_LENGTH = 32
_NOTE = "mlflow.note.content"


class Store:
    """The open store. Every method raises a one-line `CycleGANError` if the store fails."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's client of this store. An embedded store that is missing is created first.

        Errors: those of `open`.
        """
        if self._client is None:
            self._client = _connect(self.location)
        return self._client

    @property
    def exists(self) -> bool:
        """False for an embedded store in which nothing was ever written: it has no file yet."""
        database = self.location.database
        return self._client is not None or database is None or database.exists()

    @property
    def chosen(self) -> bool:
        """False if nobody named a store, so that it is the project's own."""
        return self.location.chosen

    @property
    def uri(self) -> str:
        """The store's address as MLflow takes it; it may contain a password."""
        return self.location.uri

    @classmethod
    def open(cls, tracking_uri: str | None = None) -> Store:
        """Open the store `tracking_uri`, else `MLFLOW_TRACKING_URI`, else the project's own.

        The project's own is `mlruns/mlflow.db` below `project_root()`, with files in
        `mlruns/artifacts`; it is adopted if it was moved (`tracking.moved`). If it is missing, it
        is created when something is first written to it: until then it is an empty store, so a
        command that only reads, or is refused, leaves no file.

        Errors: `UsageError` for an address of an unknown kind, `CycleGANError` if the store can't
        be reached or its file is damaged.
        """
        store = cls(locate(tracking_uri))
        if store.exists:
            store.create()
        else:
            prepare()
        return store

    def create(self) -> None:
        """Make sure that the store is there, even if nothing is ever written to it.

        Errors: those of `open`.
        """
        _ = self.client

    # -- experiments --------------------------------------------------------------------------

    def experiment(self, name: str, note: str = "") -> str:
        """Return the id of the experiment made for `name`, created if needed.

        It is found even if somebody renamed it. `note` is shown above it.
        """
        from mlflow.exceptions import MlflowException

        with translated(f"{self.location}: experiment '{name}' can't be opened"):
            found = run_lookup.called(name, self.experiments("all"))
            if found is None:
                try:
                    return self._create_experiment(name, note)
                except MlflowException:  # another process made it just now
                    found = run_lookup.called(name, self.experiments("all"))
                    if found is None:
                        raise
            if found.deleted:
                raise CycleGANError(
                    f"experiment '{name}' was deleted; choose another name or bring it back: "
                    + self.location.addressed(
                        f"mlflow experiments restore --experiment-id {found.id}"
                    )
                )
            wanted = {MADE_AS: found.tags.get(MADE_AS, name)} | ({_NOTE: note} if note else {})
            for key, value in wanted.items():
                if found.tags.get(key) != value:
                    self.client.set_experiment_tag(found.id, key, value)
            return found.id

    def _create_experiment(self, name: str, note: str) -> str:
        tags = {MADE_AS: name} | ({_NOTE: note} if note else {})
        return str(self.client.create_experiment(name, self.location.artifacts, tags))

    def _experiment_of(self, run_id: str | None) -> str | None:
        """Return the id of the experiment in which the run lies; None if there is no such run."""
        with contextlib.suppress(DataError):
            return str(self._get(run_id).info.experiment_id) if run_id else None
        return None

    def find_experiment(self, name: str, stage: Stage = "active") -> ExperimentInfo:
        """Return the experiment that was made for `name`, else the one that is called so now.

        Errors: `DataError` with the nearest names if there is none.
        """
        known = self.experiments(stage)
        found = run_lookup.called(name, known)
        if found is None:
            names = [experiment.name for experiment in known]
            raise DataError(
                f"no experiment is called '{name}' in {self.location}; "
                f"{nearest(name, names) if names else 'it has none'}"
            )
        return found

    def experiments(self, stage: Stage = "active") -> list[ExperimentInfo]:
        """Return all experiments that hold our runs, newest first.

        Unless `stage` is `active`, include those that were deleted in the user interface.
        """
        from mlflow.entities import ViewType

        if not self.exists:
            return []
        view = ViewType.ACTIVE_ONLY if stage == "active" else ViewType.ALL
        found: list[Experiment] = []
        token: str | None = None
        with translated(f"{self.location}: the experiments can't be listed"):
            while True:
                page = self.client.search_experiments(view, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
        return [
            ExperimentInfo(
                id=e.experiment_id,
                name=e.name,
                tags=dict(e.tags),
                deleted=e.lifecycle_stage == "deleted",
            )
            for e in found
            if e.experiment_id != "0"  # MLflow's own "Default", which we don't use
        ]

    def ship_view(self, experiment_id: str, view: View) -> None:
        """Save a view of its runs with an experiment; see `tracking.views`."""
        value = views.encode(view, now_ms=round(1000 * time.time()))
        with translated(f"{self.location}: the view '{view.name}' can't be saved"):
            self.client.set_experiment_tag(experiment_id, views.tag_name(view.key), value)

    # -- registered models --------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """Registry of the trained generators."""
        return Registry(self)

    # -- runs ---------------------------------------------------------------------------------

    def create_run(
        self,
        experiment: str,
        name: str,
        *,
        kind: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> Run:
        """Create a run with the status RUNNING.

        Args:
            experiment: the name of its experiment, created if needed; a run below another one is
                in the experiment of that one.
            kind: `study`, `trial`, `confirm`, `promoted`, `train` or `enhance`; the tag `kind`.
            parent: id of the run below which the interface shows it; left out if it is in another
                store.
        """
        above = self._experiment_of(parent)
        experiment_id = above or self.experiment(experiment)
        own = {"kind": kind, "mlflow.source.name": f"cyclegan {kind}"}
        own |= {"mlflow.source.type": "LOCAL"} | ({PARENT: str(parent)} if above else {})
        own |= {PROCESS: this_process()}
        with translated(f"{self.location}: run '{name}' can't be made"):
            made = self.client.create_run(experiment_id, run_name=name, tags=own | dict(tags))
        run = self._wrap(made)
        run.log_params(params)
        return run

    def open_run(self, run_id: str, *, shared: bool = False) -> Run:
        """Return an existing run to continue; it is RUNNING again.

        `shared`: several processes may write to it, as the workers of a study do to its run.

        Errors: `DataError` if it is unknown, `BusyError` if a living process writes to it.
        """
        with one_at_a_time(self.location.outboxes.parent):
            found = self._get(run_id)
            process = found.data.tags.get(PROCESS, "")
            elsewhere = found.info.status == "RUNNING" and process != this_process()
            if elsewhere and not shared and is_alive(process):
                raise BusyError(
                    f"process {process.split('/')[2]} on this host is writing to run "
                    f"{found.info.run_name} ({run_id}); wait for it or stop it first"
                )
            with translated(f"{self.location}: run {run_id} can't be continued"):
                self.client.update_run(run_id, status="RUNNING")
                self.client.set_tag(run_id, PROCESS, this_process())
        return self._wrap(found)

    def run(self, run_id: str) -> Run:
        """Return an existing run to read from or add to. Errors: `DataError` if it is unknown."""
        return self._wrap(self._get(run_id))

    def find_run(self, text: str, experiment: str | None = None) -> RunInfo:
        """Return the run that `text` means: an id or its beginning, a name, or `study:trial`.

        Of several runs with one name it is the newest finished one, else the newest.

        Errors: `DataError` with the nearest names if there is none, `UsageError` if several ids
        begin with `text`.
        """
        if len(text) == _RUN_ID_LENGTH and text.isalnum():
            return self._info(self._get(text), self._experiment_names())
        found = self.find_runs(text, experiment)
        if run_lookup.several_ids(text, found):
            ids = ", ".join(f"{run.id} ({run.name})" for run in found[:3])
            raise UsageError(f"{len(found)} runs begin with {text}: {ids}; give more of the id")
        return run_lookup.newest(found)

    def find_runs(
        self, text: str, experiment: str | None = None, stage: Stage = "active"
    ) -> list[RunInfo]:
        """Return all runs that `text` can mean, as for `find_run`, newest first.

        Errors: `DataError` with the nearest names if there is none.
        """
        found = run_lookup.matching(text, lambda f: self.search(experiment, f, stage=stage))
        if not found:
            runs = self.search(experiment)
            where = f"in experiment '{experiment}'" if experiment else f"in {self.location}"
            raise DataError(f"no run is called '{text}' {where}; {hint(text, runs)}")
        return found

    def artifacts(self, run: RunInfo) -> Artifacts:
        """Return the files of a run."""
        return Artifacts(self.client, self.location, run)

    def search(
        self,
        experiment: str | None = None,
        filter: str = "",
        limit: int = 50_000,
        stage: Stage = "active",
    ) -> list[RunInfo]:
        """Return runs of one experiment or all, newest first; `filter` has MLflow's search syntax.

        Errors: `DataError` if there is no such experiment.
        """
        from mlflow.entities import ViewType

        view = {
            "active": ViewType.ACTIVE_ONLY,
            "deleted": ViewType.DELETED_ONLY,
            "all": ViewType.ALL,
        }[stage]
        names = self._experiment_names(stage)
        wanted = list(names) if experiment is None else [self.find_experiment(experiment, stage).id]
        found: list[MlflowRun] = []
        token: str | None = None
        with translated(f"{self.location}: the runs can't be searched"):
            while wanted and len(found) < limit:
                page = self.client.search_runs(
                    wanted,
                    filter,
                    view,
                    max_results=min(1000, limit - len(found)),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
                found += page
                token = page.token
                if not token:
                    break
        return [self._info(run, names) for run in found]

    def tagged(self, tag: str, value: str) -> str | None:
        """Return the id of the newest run whose `tag`, a plain word, has this value, or None."""
        found = self.search(filter=equal(f"tags.{tag}", value))
        return next((run.id for run in found if run.tags.get(tag) == value), None)

    def run_ids(self) -> set[str]:
        """Return the ids of all runs, including deleted ones and those of other programs."""
        from mlflow.entities import ViewType

        if not self.exists:
            return set()
        found: set[str] = set()
        token: str | None = None
        with translated(f"{self.location}: the runs can't be listed"):
            places = ["0", *(experiment.id for experiment in self.experiments("all"))]
            while True:
                page = self.client.search_runs(places, "", ViewType.ALL, 1000, None, token)
                found |= {run.info.run_id for run in page}
                token = page.token
                if not token:
                    return found

    def run_url(self, run_id: str) -> str | None:
        """Return the address of the run in a browser; None if no server is known."""
        if not self.location.is_server:
            return None
        return views.run_link(
            without_secrets(self.uri), self._get(run_id).info.experiment_id, run_id
        )

    def _get(self, run_id: str) -> MlflowRun:
        from mlflow.exceptions import MlflowException

        unknown = f"no run has the id '{run_id}' in {self.location}"
        if not self.exists:
            raise DataError(unknown)
        try:
            with translated(unknown):
                found = self.client.get_run(run_id)
        except CycleGANError as error:
            cause = error.__cause__
            codes = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            if isinstance(cause, MlflowException) and cause.error_code in codes:
                raise DataError(unknown) from cause
            raise
        if found.info.lifecycle_stage == "deleted":
            raise DataError(
                f"run {run_id} was deleted; bring it back: "
                + self.location.addressed(f"mlflow runs restore --run-id {run_id}")
            )
        return found

    def _wrap(self, run: MlflowRun) -> Run:
        info = run.info
        name = info.run_name or info.run_id
        return Run(self.client, info.run_id, name, info.experiment_id, self.location)

    def _experiment_names(self, stage: Stage = "active") -> dict[str, str]:
        return {experiment.id: experiment.name for experiment in self.experiments(stage)}

    def _info(self, run: MlflowRun, experiments: Mapping[str, str]) -> RunInfo:
        info = run.info
        return RunInfo(
            id=info.run_id,
            name=info.run_name or info.run_id,
            experiment_id=info.experiment_id,
            experiment=experiments.get(info.experiment_id, info.experiment_id),
            status=info.status,
            start_ms=info.start_time,
            end_ms=info.end_time,
            params=run.data.params,
            tags=run.data.tags,
            metrics=run.data.metrics,
            artifact_uri=str(info.artifact_uri or ""),
            deleted=info.lifecycle_stage == "deleted",
        )


def _connect(location: Location) -> MlflowClient:
    """Return a client of the store at `location`, which is created, or adopted after a move."""
    ensure(location)
    if location.database is not None:  # before MLflow reads the addresses
        MovedStore(location).adopt()
    from mlflow import MlflowClient

    try:
        with (
            translated(f"{location}: the tracking store can't be used"),
            first_use(location),
            few_connections(location),
        ):
            client = MlflowClient(location.uri, location.uri)
            client.search_experiments(max_results=1)
    except CycleGANError as error:
        raise explained(location, error) from error
    if location.database is None and not location.is_server:  # MLflow has made the tables by now
        MovedStore(location).adopt()
    return client
