"""The MLflow run of an enhancement: there from the start, and never in the enhancement's way.

```
with tracked(enhancement, open_store, console) as tracking:
    tracking.begin()             RUNNING; what goes on with a killed call goes on in its run
    ... all tiles ...
    tracking.keep_volume(done)   the volume's hash; linked by its path, or copied if asked to
    ... picture, viewer, report ...
    tracking.finish(...)         FINISHED; else KILLED by Ctrl-C, or FAILED with the reason
```
What the store does not take waits in the run's outbox. A store that is away at the start is asked
again at the end; only if it is still away then, there is no run, and a warning says so.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.enhance import EnhanceResult
from cyclegan.enhance.memory import peak_bytes
from cyclegan.errors import BusyError, CycleGANError, DataError, UsageError
from cyclegan.files import shell_word
from cyclegan.numbers import strict_json
from tracking.artifacts import log_large_file
from tracking.errors import first_line
from tracking.outbox.outbox import Outbox
from tracking.outbox.records import (
    Attachment,
    End,
    Inputs,
    Metrics,
    Note,
    Params,
    Picture,
    Record,
    Tags,
    Text,
)
from tracking.outbox.writer import RunWriter
from tracking.provenance import machine_tags
from tracking.views import COMPARISON_PICTURES
from viz.console import Console
from viz.units import size_text
from workbench.enhancement.enhancement import (
    Enhancement,
    document,
    metrics,
    output_hash,
)
from workbench.enhancement.judging import JudgeResult
from workbench.output import OpenStore

if TYPE_CHECKING:
    from tracking import RunInfo, Store
    from tracking.run import Status


log = logging.getLogger(__name__)
VOLUME_FOLDER = "volume"
"""Folder among the artifacts with a copy of the volume."""
_IDENTITY = "enhancement"


@contextlib.contextmanager
def tracked(
    enhancement: Enhancement, open_store: OpenStore, console: Console
) -> Iterator[EnhancementRun]:
    """The run of an enhancement while inside; it is made by `begin`.

    Errors: `UsageError` for an address of no store.
    """
    tracking = EnhancementRun(enhancement, open_store, console)
    tracking.look_for_store()
    try:
        yield tracking
    except KeyboardInterrupt:
        tracking.end("KILLED", "interrupted; the same command continues")
        raise
    except Exception as error:
        tracking.end("FAILED", first_line(error))
        raise


class EnhancementRun:
    """One enhancement's run."""

    def __init__(self, enhancement: Enhancement, open_store: OpenStore, console: Console) -> None:
        self.enhancement, self.open_store, self.console = enhancement, open_store, console
        self.run_id: str | None = None
        """None as long as the store is away."""
        self.complete = False
        """Run and volume were finished before this call: at most a copy is still wanted."""
        self.volume: dict[str, Any] = {}
        """Path, size, hash of the result, and whether it is `linked` or `copied`."""
        self.seconds = 0.0
        """Seconds that `begin` took."""
        self._begun = False

    def look_for_store(self) -> None:
        """Open the store, so that a wrong address is refused before anything is computed."""
        try:
            self.open_store()
        except UsageError:
            raise
        except CycleGANError as error:
            log.warning("%s", error)

    def begin(self) -> None:
        """Find the run of this enhancement, or make it: once, and when nothing can be refused.

        Errors: `BusyError` if a living process writes to its run.
        """
        if self._begun:
            return
        self._begun, start = True, time.perf_counter()
        try:
            self._open(self.open_store())
        except BusyError:
            raise
        except CycleGANError as error:
            log.warning("%s; the enhancement continues and creates its run at the end", error)
        self.seconds = time.perf_counter() - start

    def keep_volume(self, done: EnhanceResult) -> None:
        """Say where the volume is, and copy it if that was asked for."""
        copy = self.enhancement.request.log_volume == "copy"
        if self.complete and not (copy and self.volume["how"] == "linked"):
            return
        path = self.enhancement.output
        size = path.stat().st_size
        self.volume = {
            "path": str(path),
            "bytes": size,
            "hash": output_hash(path),
            "shape": list(done.shape),
            "how": "linked",
            "artifact": None,
        }
        if copy and self._is_open():
            self._copy(path, size)

    def finish(self, done: EnhanceResult, judged: JudgeResult) -> None:
        """Everything that is known in the end, and the status."""
        if not self._is_open():
            log.warning("this enhancement is not in MLflow: the store never answered")
        elif not self.complete:
            self._write(*self._finals(done, judged), End("FINISHED", ""))
        elif self.volume.get("artifact"):
            self._write(*self._place(judged))

    def end(self, status: Status, reason: str) -> None:
        """Close the run before its time."""
        if self.run_id and not self.complete:
            self._write(End(status, reason))

    # -- the run ------------------------------------------------------------------------------

    def _open(self, store: Store) -> None:
        enhancement = self.enhancement
        found = self._earlier(store)
        if found and found.status == "FINISHED":
            if not enhancement.request.overwrite and enhancement.output.exists():
                self.run_id, self.complete = found.id, True
                self.volume = {"how": found.tags["log_volume"]} | self.volume
                return
            found = None  # its result is replaced
        if found:
            run = store.open_run(found.id)
            self.console.say(f"continuing the run {found.name} ({found.id})")
            with contextlib.closing(Outbox.of(run)) as outbox:
                outbox.acquire(wait=True)
                outbox.drop(End)  # the run continues
        else:
            run = store.create_run(
                enhancement.model.experiment or "enhance",
                f"enhance-{enhancement.target.volume.stem}",
                kind="enhance",
                params={},
                tags={_IDENTITY: enhancement.identity, "log_volume": ""},
                parent=enhancement.model.run_id,
            )
        self.run_id = run.id
        self._write(
            Params(enhancement.params()),
            Tags(enhancement.tags() | {"reason": ""}),
            Inputs(enhancement.datasets()),
            Note("Model:", model_note(enhancement)),
            Note("Input:", input_note(enhancement)),
        )

    def _earlier(self, store: Store) -> RunInfo | None:
        """The run of an earlier call for this result; one that is not finished if there is one."""
        experiment = self.enhancement.model.experiment or "enhance"
        try:
            found = store.search(
                experiment,
                f"tags.kind = 'enhance' and tags.{_IDENTITY} = '{self.enhancement.identity}'",
            )
        except DataError:  # no such experiment yet
            return None
        return min(found, key=lambda run: run.status == "FINISHED", default=None)

    def _is_open(self) -> bool:
        """Return True if there is a run to write to; a store that was away is asked once more."""
        if self.run_id is None:
            with contextlib.suppress(CycleGANError):
                self._open(self.open_store())
        return self.run_id is not None

    def _write(self, *records: Record) -> None:
        assert self.run_id
        RunWriter(self.open_store(), self.run_id).put(*records)

    # -- the volume ---------------------------------------------------------------------------

    def _copy(self, path: Path, size: int) -> None:
        assert self.run_id
        self.console.say(f"copying the volume, {size_text(size)}, to the artifacts of its run")
        try:
            store = self.open_store()
            own = store.artifacts(store.find_run(self.run_id)).folder
            with self.console.progress("copy", size, unit="bytes") as update:
                artifact = log_large_file(
                    store.run(self.run_id), own, path, VOLUME_FOLDER, progress=update
                )
        except CycleGANError as error:
            log.warning("%s; the volume is not copied, only its path is logged", error)
        else:
            self.volume |= {"how": "copied", "artifact": artifact}

    # -- the end ------------------------------------------------------------------------------

    def _finals(self, done: EnhanceResult, judged: JudgeResult) -> list[Record]:
        enhancement, volume = self.enhancement, self.volume
        peak = peak_bytes(enhancement.device)
        target = enhancement.target
        files = {
            "preview.png": target.picture if judged.picture is not None else None,
            "report.html": target.report if judged.report is not None else None,
            "report.png": target.report_picture if judged.report is not None else None,
            "viewer.html": judged.viewer,
        }
        content = self._about() | document(enhancement, done, judged, volume, peak)
        records: list[Record] = [
            Params({"tile": list(done.tile)}),
            Metrics(metrics(done, judged, volume["bytes"], peak), step=0),
            Text(strict_json(content), "enhanced.json"),
            *self._place(judged),
        ]
        records += [Attachment(path, "", name) for name, path in files.items() if path is not None]
        if judged.picture is not None:
            records.append(Picture(judged.picture, COMPARISON_PICTURES, 0))
        return records

    def _place(self, judged: JudgeResult) -> list[Record]:
        """Return the records that say where the volume is."""
        assert self.run_id
        return [
            Tags({"output_hash": self.volume["hash"], "log_volume": self.volume["how"]}),
            Note("Volume:", volume_note(self.volume, judged.viewer is not None)),
            Text(volume_text(self.enhancement, self.volume, self._copy_command()), "volume.txt"),
        ]

    def _copy_command(self) -> str:
        """Return the command that copies the volume into the run later."""
        file = shell_word(self.volume["path"])
        return self.open_store().location.addressed(
            f"mlflow artifacts log-artifact --run-id {self.run_id} --artifact-path volume "
            f"--local-file {file}"
        )

    def _about(self) -> dict[str, Any]:
        store = str(self.open_store().location)
        return {"run_id": self.run_id, "store": store, "enhancement": self.enhancement.identity}


# -- Description of the run, and the artifact volume.txt ---------------------------------------


def model_note(enhancement: Enhancement) -> str:
    """Return Markdown that names the generator, with a link to the run that trained it."""
    model, origin = enhancement.model, enhancement.origin
    parts = [model.run.link() if model.run else _code(model.address)]
    parts += [model.label] if model.label else []
    if "trial" in origin and "study" in origin:
        parts.append(f"trial {origin['trial']} of study {origin['study']}")
    parts += [f"step {model.generator.step}", _code(_short(enhancement.model_hash))]
    return ", ".join(parts)


def input_note(enhancement: Enhancement) -> str:
    """Return Markdown that names the volumes that were read."""
    parts = []
    for file in enhancement.inputs:
        role = "" if file.role == "input" else f"{file.role} "
        parts.append(f"{role}{_code(file.path)}, {_code(_short(file.hash))}")
    return "; ".join(parts)


def volume_note(volume: Mapping[str, Any], viewer: bool) -> str:
    """Return Markdown that says where the result is."""
    where = f"{size_text(volume['bytes'])} in {_code(volume['path'])}"
    if volume["artifact"]:
        where += f", with a copy among the artifacts, {_code(volume['artifact'])}"
    else:
        where += ", not copied"
    look = "; to view it, open `viewer.html` among the artifacts" if viewer else ""
    return f"{where}{look}"


def volume_text(enhancement: Enhancement, volume: Mapping[str, Any], copy_command: str) -> str:
    """The artifact `volume.txt`: where the volume is, which it is, and how to open it.

    `copy_command` copies it into the run.
    """
    path = volume["path"]
    shell = shell_word(path)
    host = machine_tags(enhancement.device)["host"]
    shape = " x ".join(map(str, volume["shape"]))
    maps = "".join(f"  {name}\n" for name in enhancement.settings["trust"])
    if volume["artifact"]:
        place = f"A copy of the enhanced volume is {volume['artifact']} among these artifacts; it"
    else:
        place = "The enhanced volume is not among these artifacts; it"
    copy = f"Copy it here later\n  {copy_command}\n"
    return (
        f"{place} was written on the host {host} to\n\n"
        f"  {path}\n\n"
        f"{size_text(volume['bytes'])}, {shape} voxels, float32\n"
        f"{volume['hash']}\n\n"
        "A hash that begins with `sha256:` is that of `sha256sum`; `sampled-sha256:` is made of\n"
        "the size and 256 pieces of a file above 1 GiB.\n\n"
        "In the file\n"
        "  data\n"
        f"{maps}\n"
        "Open it\n"
        f"  silx view {shell}\n"
        f"  cyclegan viewer {shell}\n"
        f'  h5py.File({path!r})["data"][...]    in Python\n'
        + ("" if volume["artifact"] else f"\n{copy}")
    )


def _short(found: str) -> str:
    """The beginning of a hash; the tags have all of it."""
    kind, _, digits = found.partition(":")
    return f"{kind}:{digits[:12]}" if digits else found


def _code(value: object) -> str:
    """As Markdown's code, in which nothing else is special."""
    return f"`{str(value).replace('`', '')}`"
