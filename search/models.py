"""Find the model that `--model` names: a file, a registered version, or an MLflow run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.generator import TrainedGenerator, load_generator
from tracking.registry import CHAMPION, artifact_of

if TYPE_CHECKING:
    from tracking import ModelVersion, Run, Store


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

    Errors: `DataError`, `UsageError` and `CheckpointError` if nothing is found, if the name is
    ambiguous, or if the file holds no generator.
    """
    if Path(name).is_file():
        return Model(generator=load_generator(Path(name)), file=Path(name))
    version, artifact, run_name = None, "checkpoints/generator.pt", name
    store = open_store()
    if name == CHAMPION or "@" in name:
        version = store.registry.find(name)
        artifact, run_name = artifact_of(version), version.run_id
    info = store.find_run(run_name)
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


def origin_of(run_id: str | None, version: ModelVersion | None) -> dict[str, str]:
    """Return the origin that an exported generator records; empty for a mere file."""
    tags = version.tags if version else {}
    known = {name: tags[name] for name in ("study", "trial", "steps", "best_step") if name in tags}
    named = {"run": run_id, "version": version.label if version else None}
    return known | {name: value for name, value in named.items() if value}
