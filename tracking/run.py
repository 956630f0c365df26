"""One run in the store: what can be written to it and read from it.

Every method raises `CycleGANError` in one line if the store fails. A buffered writer that outlives
such failures is in `tracking/outbox/writer.py`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError, nearest
from cyclegan.files import replacing, write_text
from cyclegan.numbers import only_finite
from tracking import params as parameters
from tracking.artifacts import local_folder
from tracking.downsampling import Sample, batches, merge, metric_name
from tracking.errors import translated
from tracking.scratch import scratch_folder, temporary_folder
from tracking.views import link_between_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from tracking.database import Location

Status = Literal["FINISHED", "FAILED", "KILLED"]

# MLflow's limits of one request.
_METRICS, _PARAMS, _TAGS, _TAG_LENGTH = 1000, 100, 100, 8000
_DIGEST_LENGTH = 36
_MARKER = "iteration"
_NOTE = "mlflow.note.content"


@dataclass(frozen=True, kw_only=True)
class DatasetInput:
    """A dataset that a run reads."""

    name: str
    digest: str
    """A hash of its content; MLflow takes 36 characters."""
    source: str
    """Its path or address."""
    context: str
    """Its use in the run, such as `training`."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """More about it for people: small, plain data."""


class Run:
    """A run that exists in the store. Made by `Store.create_run` and `Store.open_run`.

    `location`: the store it is in.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, name: str, experiment_id: str, location: Location
    ) -> None:
        self.location = location
        self.id = run_id
        self.name = name
        self.experiment_id = experiment_id
        self._client = client
        self._downloads: Path | None = None
        self._folder: Path | None = None

    # -- writing ------------------------------------------------------------------------------

    def log_rows(self, rows: Sequence[Sample]) -> None:
        """Add metrics by iteration, in requests within MLflow's limits.

        An iteration is written as a whole or not at all, and a metric `iteration` with the last one
        goes along in the same transaction: what `last_iteration` tells is complete. Samples of the
        same iteration are joined; NaN and infinity are left out.
        """
        from mlflow.entities import Metric

        clean = [Sample(s.iteration, only_finite(s.values), s.time_ms) for s in merge(rows)]
        for batch in batches(clean, _METRICS - 1):
            points = [
                Metric(metric_name(name), float(value), sample.time_ms, sample.iteration)
                for sample in batch
                for name, value in sample.values.items()
            ]
            last = batch[-1]
            points.append(Metric(_MARKER, float(last.iteration), last.time_ms, last.iteration))
            with self._writing("metrics"):
                self._client.log_batch(self.id, metrics=points)

    def log_metrics(
        self, values: Mapping[str, float], step: int = 0, at_ms: int | None = None
    ) -> None:
        """Add finite `values` at one place on the axis, without touching `last_iteration`.

        `at_ms`: when, in ms since 1970; by default now.
        """
        from mlflow.entities import Metric

        at = round(1000 * time.time()) if at_ms is None else at_ms
        points = [
            Metric(metric_name(n), float(v), at, step) for n, v in only_finite(values).items()
        ]
        for start in range(0, len(points), _METRICS):
            with self._writing("metrics"):
                self._client.log_batch(self.id, metrics=points[start : start + _METRICS])

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Add parameters that are not there yet; nested mappings become dotted names.

        MLflow's parameters can't change. Where a resumed training brings another value, the first
        one stays and a tag `changed.<name>` tells both.
        """
        from mlflow.entities import Param

        known = self._read().data.params
        flat = {metric_name(name): text for name, text in parameters.flatten(values).items()}
        new = [Param(name, text) for name, text in flat.items() if name not in known]
        for start in range(0, len(new), _PARAMS):
            with self._writing("parameters"):
                self._client.log_batch(self.id, params=new[start : start + _PARAMS])
        self.set_tags(
            {
                f"changed.{name}": f"{known[name]} -> {text}"
                for name, text in flat.items()
                if name in known and not parameters.same(known[name], text)
            }
        )

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set or replace tags; longer texts than MLflow takes are cut."""
        from mlflow.entities import RunTag

        items = [RunTag(name, str(value)[:_TAG_LENGTH]) for name, value in tags.items()]
        for start in range(0, len(items), _TAGS):
            with self._writing("tags"):
                self._client.log_batch(self.id, tags=items[start : start + _TAGS])

    def annotate(self, begin: str, text: str) -> None:
        """Add the paragraph `begin text` to the run's description, instead of the one so begun.

        Markdown. Other paragraphs stay: people write there, too.
        """
        before = self._read().data.tags.get(_NOTE, "")
        self.set_tags({_NOTE: with_paragraph(before, begin, text)})

    def link(self) -> str:
        """Markdown that leads from another run's description to this one."""
        return f"[{self.name}]({link_between_runs(self.experiment_id, self.id)})"

    def log_image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """Add a picture, grey (Y, X) or RGB (Y, X, 3), to the series `key` of the image panel."""
        if image.dtype != np.uint8:
            raise TypeError(f"a picture is uint8, not {image.dtype}: MLflow would rescale it")
        with self._writing("a picture"):
            self._client.log_image(self.id, image, key=key, step=step, synchronous=True)

    def log_text(self, text: str, name: str) -> None:
        """Write `text` as the artifact `name`, replacing an earlier one."""
        with self.new_artifact(name) as path:
            write_text(path, text)

    def log_file(self, path: Path, folder: str = "", name: str = "") -> None:
        """Copy a file among the artifacts, into `folder`, under its own or another `name`."""
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        artifact = str(PurePosixPath(folder) / (name or path.name))
        with self.new_artifact(artifact) as target, replacing(target) as temporary:
            shutil.copyfile(path, temporary)

    @contextlib.contextmanager
    def new_artifact(self, name: str) -> Iterator[Path]:
        """Yield a path for the artifact `name`, which is stored when the block ends.

        On this machine it is the artifact's own place: the block must leave a whole file or none
        there, as `cyclegan.files.replacing` does. For a server it is a temporary file.
        """
        folder, _, file = name.rpartition("/")
        with self._writing(name):
            here = self._folder_here()
            if here is not None:
                yield here / name
                return
            with temporary_folder() as temporary:
                yield temporary / file
                self._client.log_artifact(self.id, str(temporary / file), folder or None)

    def log_inputs(self, inputs: Sequence[DatasetInput]) -> None:
        """Say which datasets the run reads; one that is known already stays as it is."""
        from mlflow import entities

        given = [
            entities.DatasetInput(
                entities.Dataset(
                    name=each.name,
                    digest=each.digest[:_DIGEST_LENGTH],
                    source_type="local",
                    source=json.dumps({"uri": each.source}),
                    profile=json.dumps(dict(each.profile)),
                ),
                [entities.InputTag("mlflow.data.context", each.context)],
            )
            for each in inputs
        ]
        with self._writing("the datasets"):
            self._client.log_inputs(self.id, given)

    def finish(self, status: Status, reason: str = "", at_ms: int | None = None) -> None:
        """Close the run; `reason` says in words why it ended as it did.

        `at_ms`: when, in ms since 1970; by default now.
        """
        self.set_tags({"reason": reason})
        with self._writing("the status"):
            self._client.set_terminated(self.id, status, at_ms)

    # -- reading ------------------------------------------------------------------------------

    def last_iteration(self) -> int:
        """The last iteration that `log_rows` wrote completely; 0 if there is none."""
        return round(self._read().data.metrics.get(_MARKER, 0))

    def history(self, name: str) -> dict[int, float]:
        """All points of a metric by their place on the axis; empty if it was never logged."""
        with translated(f"run {self.name}: its metric '{name}' can't be read"):
            points = self._client.get_metric_history(self.id, metric_name(name))
        return {point.step: point.value for point in points}

    def image_steps(self, key: str) -> set[int]:
        """Return the steps at which the series `key` has a picture already."""
        prefix = key.replace("/", "~") + "+step+"
        with translated(f"run {self.name}: its pictures can't be listed"):
            files = [item.path for item in self._client.list_artifacts(self.id, "images")]
        names = [path.rpartition("/")[2] for path in files]
        # The small copy is written last; where it is, both are.
        whole = [n for n in names if n.startswith(prefix) and n.endswith("+compressed.webp")]
        return {int(name.removeprefix(prefix).partition("+")[0]) for name in whole}

    def artifact_names(self, folder: str = "") -> list[str]:
        """Paths of the artifact files and folders that lie in `folder`."""
        with translated(f"run {self.name}: its artifacts can't be listed"):
            return [item.path for item in self._client.list_artifacts(self.id, folder or None)]

    def image(self, key: str, step: int) -> NDArray[np.uint8] | None:
        """The picture of the series `key` at `step`, RGB (Y, X, 3); None if there is none."""
        from PIL import Image

        prefix = f"{key.replace('/', '~')}+step+{step}+"
        with translated(f"run {self.name}: its pictures can't be read"):
            files = [item.path for item in self._client.list_artifacts(self.id, "images")]
            small = "+compressed.webp"  # is written last
            found = [f.removesuffix(small) for f in files if f.endswith(small)]
            whole = [f"{f}.png" for f in found if f.rpartition("/")[2].startswith(prefix)]
            if not whole:
                return None
            with Image.open(self.artifact_path(whole[-1])) as picture:
                return np.asarray(picture.convert("RGB"))

    def artifact_path(self, name: str) -> Path:
        """A local path of the artifact file or folder `name`, to be read only.

        One on this machine is not copied. One behind a server is fetched, and its copy is removed
        when this process ends (`tracking.scratch`).

        Errors: `DataError` if there is none, with the nearest one.
        """
        with translated(f"run {self.name}: artifact '{name}' can't be read"):
            parent = name.rpartition("/")[0]
            there = self.artifact_names(parent)
            if name not in there:
                hint = nearest(name, there) if there else "it has none"
                raise DataError(f"run {self.name} ({self.id}) has no artifact '{name}'; {hint}")
            here = self._folder_here()
            if here is not None:
                return here / name
            if self._downloads is None:
                self._downloads = scratch_folder()
            return Path(self._client.download_artifacts(self.id, name, str(self._downloads)))

    def _folder_here(self) -> Path | None:
        """Return the folder of its artifacts on this machine; None if they lie elsewhere."""
        if self._folder is None:
            self._folder = local_folder(self.location, str(self._read().info.artifact_uri))
        return self._folder

    def _read(self) -> MlflowRun:
        with translated(f"run {self.name} ({self.id}) can't be read from the store"):
            return self._client.get_run(self.id)

    def _writing(self, what: str) -> contextlib.AbstractContextManager[None]:
        return translated(f"run {self.name} ({self.id}): {what} can't be written to the store")


def with_paragraph(note: str, begin: str, text: str) -> str:
    """`note` with the paragraph `begin text`, in place of one that begins so, else at its end."""
    new = f"{begin} {text}"
    paragraphs = [p for p in note.split("\n\n") if p.strip()]
    if not any(p.startswith(f"{begin} ") for p in paragraphs):
        paragraphs.append(new)
    return "\n\n".join(new if p.startswith(f"{begin} ") else p for p in paragraphs)
