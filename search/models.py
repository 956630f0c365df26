"""Find the model that `--model` names: a file, a registered version, or an MLflow run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.config import load_yaml
from cyclegan.data import read_json
from cyclegan.errors import ConfigError, DataError
from cyclegan.generator import TrainedGenerator, load_generator
from search.launch import GENERATOR_NAME, RECORD_NAME, SAVE_FOLDER
from tracking import project_root
from tracking.registry import CHAMPION, artifact_of
from tracking.run_lookup import SHORTEST

if TYPE_CHECKING:
    from tracking import ModelVersion, Run, Store


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A generator that was found, and its origin."""

    generator: TrainedGenerator
    """Translates from domain A to B."""
    file: Path
    run: Run | None = None
    """Held by the model: a file fetched from a server exists only as long as this object."""
    experiment: str | None = None
    version: ModelVersion | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the MLflow run."""
    artifact: str = ""
    """Path of the file among the run's artifacts."""

    @property
    def run_id(self) -> str | None:
        """MLflow id of the run that trained the generator."""
        return self.run.id if self.run else None

    @property
    def name(self) -> str:
        """Name under which the model is recorded: the run id, else the path of the file."""
        return self.run_id or str(self.file)

    @property
    def address(self) -> str:
        """Permanent address of the generator; `file` may be a temporary copy."""
        return f"runs:/{self.run_id}/{self.artifact}" if self.run else str(self.file.resolve())

    @property
    def label(self) -> str:
        """The registered version, such as `demo@3`; empty for a model that is not registered."""
        return self.version.label if self.version else ""


def find_model(name: str, open_store: Callable[[], Store]) -> Model:
    """Return the model that `name` stands for. The store is opened only if `name` is not a file.

    If the store lacks the run, but the training is in this project's `results`, its generator is
    taken from there, and a warning says so: a project may have been copied without its store.

    Errors: `DataError`, `UsageError` and `CheckpointError` if nothing is found, if the name is
    ambiguous, or if the file holds no generator.
    """
    if Path(name).is_file():
        return Model(generator=load_generator(Path(name)), file=Path(name))
    version, artifact, run_name = None, "checkpoints/generator.pt", name
    store = open_store()
    if name == CHAMPION or "@" in name:
        try:
            version = store.registry.find(name)
        except DataError as error:
            raise DataError(f"{error}{_promoted_here(name)}") from error
        artifact, run_name = artifact_of(version), version.run_id
    try:
        info = store.find_run(run_name)
    except DataError as error:
        file = None if version else _trained_here(run_name)
        if file is None:
            raise
        log.warning("%s; taking %s", error, file)
        return Model(generator=load_generator(file), file=file)
    run = store.run(info.id)
    file = run.artifact_path(artifact)
    return Model(
        generator=load_generator(file),
        file=file,
        run=run,
        experiment=info.experiment,
        version=version,
        tags=info.tags,
        artifact=artifact,
    )


# -- Generators in `results`, for a project that came without its store -----------------------


def _trained_here(text: str) -> Path | None:
    """Return the generator of the one training here that `text` names as for a run, or None."""
    results = project_root() / "results"
    trial = re.fullmatch(r"(.+):(\d{1,9})", text)
    if trial:
        folder = results / trial[1] / f"trial-{int(trial[2]):03d}"
        found = [folder] if folder.parent.parent == results else []
    else:
        found = [folder for folder in _trainings(results) if _is_called(folder, text)]
    files = [folder / SAVE_FOLDER / GENERATOR_NAME for folder in found]
    files = [file for file in files if file.is_file()]
    return files[0] if len(files) == 1 else None


def _trainings(results: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*", "*/*/*"):  # a training, a trial, another seed of a trial
        yield from (path.parent for path in sorted(results.glob(f"{pattern}/{RECORD_NAME}")))


def _is_called(folder: Path, text: str) -> bool:
    """Return True if `text` is the name of a training, its run's id, or the beginning of that."""
    try:
        run_id = str(read_json(folder / RECORD_NAME).get("run_id", ""))
        name = load_yaml(folder / "config.yaml").get("run_name")
    except (DataError, ConfigError, AttributeError):  # half-written, or not ours
        return False
    return text == name or (len(text) >= SHORTEST and run_id.startswith(text))


def _promoted_here(name: str) -> str:
    """Return the end of a message on an unregistered model: how to register a promoted one."""
    study = name.partition("@")[0]
    folders = (project_root() / "results").glob(f"*/*-promoted-*/{SAVE_FOLDER}/{GENERATOR_NAME}")
    found = [path.parent.parent for path in sorted(folders)]
    found = [f for f in found if name == CHAMPION or f.name.startswith(f"{study}-promoted-")]
    if not found:
        return ""
    trial = found[0].name.rpartition("-")[2].lstrip("0") or "0"
    return (
        f"; {found[0]} was promoted into another store: register it in this one with "
        f"cyclegan promote {found[0].parent.name} --trial {trial}"
    )


def origin_of(run_id: str | None, version: ModelVersion | None) -> dict[str, str]:
    """Return the origin that an exported generator records; empty for a mere file."""
    tags = version.tags if version else {}
    known = {name: tags[name] for name in ("study", "trial", "steps", "best_step") if name in tags}
    named = {"run": run_id, "version": version.label if version else None}
    return known | {name: value for name, value in named.items() if value}
