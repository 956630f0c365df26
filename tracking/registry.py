"""The model registry: trained generators under a study's name, with versions and a champion.

A version has its own file among its run's artifacts, `registered/<digest>/generator.pt`: a
training that continues replaces `checkpoints/generator.pt`, but never the file of a version. Beside
it lie `generator.pt2`, the same generator for use without this project, and MLflow's `MLmodel`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.errors import CycleGANError, DataError, UsageError, nearest
from tracking.errors import translated
from tracking.run_lookup import MADE_AS, equal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel

    from tracking.run import Run
    from tracking.store import Store


CHAMPION = "champion"
"""The alias of a model's best version."""
_FOLDER, _DIGEST, _SCORE, _PATH = "registered", "sha256", "score", "artifact"
_PORTABLE, _PORTABLE_DIGEST = "portable", "portable_sha256"


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A registered generator."""

    model: str
    """Name of the registered model: its study's, unless somebody renamed it."""
    version: int
    run_id: str
    source: str
    """URI of the folder that holds the generator."""
    tags: Mapping[str, str]

    @property
    def label(self) -> str:
        """Name such as `demo@3`, as the command line takes it."""
        return f"{self.model}@{self.version}"

    @property
    def score(self) -> float | None:
        """Score at which its generator was saved; None if it was registered without one."""
        try:
            return float(self.tags[_SCORE])
        except (KeyError, ValueError):
            return None

    @property
    def portable(self) -> str | None:
        """Path of the exported generator in its run's artifacts; None if there is none."""
        return self.tags.get(_PORTABLE)


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The result of comparing a version with the champion."""

    won: bool
    """True if the version is champion now."""
    before: ModelVersion | None
    """Champion before the comparison."""


class Registry:
    """The registry of a store. Every method raises a one-line `CycleGANError` if it fails."""

    def __init__(self, store: Store) -> None:
        self._store, self._where = store, str(store.location)

    @property
    def _client(self) -> MlflowClient:
        return self._store.client

    def register(
        self, model: str, run: Run, generator: Path, *, score: float, tags: Mapping[str, object]
    ) -> tuple[ModelVersion, bool]:
        """Register the file `generator` of `run` as a version of `model`; return (version, is new).

        The same file of the same run is registered once. Two processes that do so at the same
        moment may make two equal versions; a caller that must prevent this holds a lock.
        """
        digest = hashlib.sha256(generator.read_bytes()).hexdigest()
        for version in self.versions(model):
            if (version.run_id, version.tags.get(_DIGEST)) == (run.id, digest):
                return version, False
        folder = f"{_FOLDER}/{digest[:12]}"
        run.log_file(generator, folder)
        own = {_SCORE: repr(float(score)), _DIGEST: digest, _PATH: f"{folder}/{generator.name}"}
        with translated(f"{self._where}: model '{model}' can't be registered"):
            present = self._make_model(model)
            root = str(self._client.get_run(run.id).info.artifact_uri)
            made = self._client.create_model_version(
                present,
                source=f"{root}/{folder}",
                run_id=run.id,
                tags=own | {key: str(value) for key, value in tags.items()},
            )
        return _version(made), True

    def attach(
        self, version: ModelVersion, run: Run, exported: Path, about: Mapping[str, Any]
    ) -> None:
        """Store an exported generator beside that of `version`, with MLflow's description of both.

        `about` is the file's own description. The version is tagged once all files are stored.
        """
        folder = artifact_of(version).rpartition("/")[0]
        text = mlmodel(about, run_id=run.id, folder=folder, file=exported.name)
        run.log_file(exported, folder)
        run.log_text(text, f"{folder}/{NAME}")
        tags = {
            _PORTABLE_DIGEST: hashlib.sha256(exported.read_bytes()).hexdigest(),
            _PORTABLE: f"{folder}/{exported.name}",
        }
        with translated(f"{self._where}: {version.label} can't be tagged"):
            for name, value in tags.items():
                self._client.set_model_version_tag(version.model, str(version.version), name, value)

    def _make_model(self, model: str) -> str:
        """Make the registered model for a study, if it is missing; return its present name."""
        from mlflow.exceptions import MlflowException

        present = self._present_name(model)
        try:
            self._client.create_registered_model(
                present, description=f"Generators of promoted trials of the study `{model}`."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._client.set_registered_model_tag(present, MADE_AS, model)
        return present

    def challenge(self, version: ModelVersion) -> Challenge:
        """Make `version` champion if there is none, or if its score is above the champion's.

        A champion without a score was chosen by a person and stays.
        """
        before = self.holder(version.model)
        if before is not None and before.version == version.version:
            return Challenge(won=True, before=before)
        won = _beats(version.score, before)
        if won:
            with translated(f"{self._where}: {version.label} can't be made {CHAMPION}"):
                self._client.set_registered_model_alias(
                    version.model, CHAMPION, str(version.version)
                )
        return Challenge(won=won, before=before)

    def versions(self, model: str) -> list[ModelVersion]:
        """Return all versions of `model`, newest first; none if there is no such model."""
        if not self._store.exists:
            return []
        present = self._present_name(model)
        with translated(f"{self._where}: the versions of model '{model}' can't be listed"):
            found: list[MlflowVersion] = []
            token: str | None = None
            while True:
                page = self._client.search_model_versions(
                    equal("name", present) or None, max_results=1000, page_token=token
                )
                found += [version for version in page if version.name == present]
                token = page.token
                if not token:
                    break
        return sorted((_version(v) for v in found), key=lambda v: -v.version)

    def of_runs(self, run_ids: Collection[str]) -> dict[str, str]:
        """Return labels of the versions that come from these runs or whose files lie among theirs.

        They are text by run id, such as `demo@1, champion`; runs without a version are left out.
        """
        found: dict[str, str] = {}
        for model, known in self._aliases().items():
            for version in self.versions(model):
                names = [name for name, number in known.items() if number == version.version]
                label = ", ".join([version.label, *sorted(names)])
                # A version registered by hand may name its run only in its address.
                mentioned = {version.run_id, *re.findall(r"[0-9a-f]{32}", version.source)}
                for run_id in mentioned.intersection(run_ids):
                    found[run_id] = "; ".join(filter(None, [found.get(run_id), label]))
        return found

    def holder(self, model: str, alias: str = CHAMPION) -> ModelVersion | None:
        """Return the version of `model` with that alias, or None."""
        present = self._present_name(model)
        number = self._aliases().get(present, {}).get(alias)
        if number is None:
            return None
        with translated(f"{self._where}: {model}@{alias} can't be read"):
            return _version(self._client.get_model_version(present, str(number)))

    def find(self, name: str) -> ModelVersion:
        """Return the version that `champion`, `STUDY@champion`, `STUDY@ALIAS` or `STUDY@3` means.

        Errors: `DataError` if there is none, `UsageError` if `champion` could mean several.
        """
        aliases = self._aliases()
        if name == CHAMPION:
            return self._only_champion(aliases)
        model, _, which = name.partition("@")
        model = self._present_name(model)
        if model not in aliases:
            known = nearest(model, aliases) if aliases else "none has been promoted yet"
            raise DataError(f"no model '{model}' is registered in {self._where}; {known}")
        if not which.isdigit():
            version = self.holder(model, which)
        else:
            version = next((v for v in self.versions(model) if v.version == int(which)), None)
        if version is None:
            forms = [f"{model}@{alias}" for alias in sorted(aliases[model])]
            forms += [v.label for v in self.versions(model)]
            raise DataError(f"model {name} is not registered; known: {', '.join(forms)}")
        return version

    def _only_champion(self, aliases: Mapping[str, Mapping[str, int]]) -> ModelVersion:
        models = sorted(model for model, known in aliases.items() if CHAMPION in known)
        if not models:
            raise DataError(
                f"no model in {self._where} is {CHAMPION} yet; make one: cyclegan promote STUDY"
            )
        if len(models) > 1:
            raise UsageError(
                f"{CHAMPION} could be any of {', '.join(f'{m}@{CHAMPION}' for m in models)}; "
                "name one of them"
            )
        found = self.holder(models[0])
        if found is None:
            raise CycleGANError(f"{models[0]}@{CHAMPION} was removed just now; try again")
        return found

    def _aliases(self) -> dict[str, dict[str, int]]:
        """Return every registered model with its aliases and their versions."""
        return {
            model.name: {alias: int(version) for alias, version in dict(model.aliases).items()}
            for model in self._models()
        }

    def _present_name(self, model: str) -> str:
        """Return what the model made for the study `model` is called now; `model` if none was."""
        made = (m.name for m in self._models() if m.tags.get(MADE_AS) == model)
        return str(next(made, model))

    def _models(self) -> list[RegisteredModel]:
        if not self._store.exists:
            return []
        with translated(f"{self._where}: the registered models can't be listed"):
            found: list[RegisteredModel] = []
            token: str | None = None
            while True:
                page = self._client.search_registered_models(max_results=1000, page_token=token)
                found += page
                token = page.token
                if not token:
                    return found


def artifact_of(version: ModelVersion) -> str:
    """Return the path of the generator of `version` in its run's artifacts.

    For a version registered by hand it is `generator.pt` in the folder that is its source.

    Errors: `DataError` if that folder does not belong to its run.
    """
    if _PATH in version.tags:
        return version.tags[_PATH]
    run = re.escape(version.run_id)
    inside = re.search(rf"(?:{run}/artifacts|^runs:/{run})/(.+)", version.source)
    if not run or not inside:
        raise DataError(
            f"model {version.label} comes from {version.source}, which belongs to no run; "
            "register it from a run's artifacts"
        )
    return f"{inside[1].rstrip('/')}/generator.pt"


def _beats(score: float | None, holder: ModelVersion | None) -> bool:
    if score is None:
        return False
    return holder is None or (holder.score is not None and score > holder.score)


def _version(found: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        model=str(found.name),
        version=int(found.version),
        run_id=str(found.run_id or ""),
        source=str(found.source or ""),
        tags=dict(found.tags),
    )


# -- MLflow's own description of a registered generator: the file `MLmodel` beside it ----------
#
# MLflow's pages show the schema in it. We don't use MLflow's `log_model`: it would pickle the
# network and fix the sizes of an example.

NAME = "MLmodel"


FLAVOR = "torch_export"
"""Flavor that MLflow can't load by itself: `torch.export.load` reads the file."""


def mlmodel(about: Mapping[str, Any], *, run_id: str, folder: str, file: str) -> str:
    """Return the YAML of `MLmodel` for the exported generator `file` in a run's `folder`.

    `about` is the generator's own description (`cyclegan.portable`): all of it becomes metadata,
    and its input and output become the signature, with -1 for batch, Z, Y and X.
    """
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature

    signature = ModelSignature(inputs=_schema(about["input"]), outputs=_schema(about["output"]))
    model = Model(
        artifact_path=folder,
        run_id=run_id,
        signature=signature,
        flavors={FLAVOR: {"data": file, "torch_version": about["versions"]["torch"]}},
        metadata=dict(about),
    )
    return str(model.to_yaml())


def _schema(image: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(image["dtype"])
    return Schema([TensorSpec(kind, tuple(image["shape"]), image["name"])])
