"""The model registry registers a file once, makes the better one champion, and finds names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from cyclegan.errors import DataError, UsageError
from tracking import ModelVersion, Run, Store
from tracking.registry import artifact_of
from tracking.run import with_paragraph
from tracking.ui import running_server

from .test_ui import free_port


def register(
    store: Store, run: Run, folder: Path, content: bytes, score: float, model: str = "demo"
) -> tuple[ModelVersion, bool]:
    path = folder / "generator.pt"
    path.write_bytes(content)
    return store.registry.register(model, run, path, score=score, tags={"trial": 3})


def test_a_renamed_model_stays_that_of_its_study(
    store: Store, client: MlflowClient, run: Run, tmp_path: Path
) -> None:
    store.registry.challenge(register(store, run, tmp_path, b"one", 0.5)[0])
    client.rename_registered_model("demo", "denoiser")
    second, _ = register(store, run, tmp_path, b"two", 0.75)
    assert second.label == "denoiser@2"
    challenge = store.registry.challenge(second)
    assert challenge.before is not None
    assert challenge.before.label == "denoiser@1"
    for name in ("demo@champion", "denoiser@champion", "demo@2"):
        assert store.registry.find(name).label == second.label


def test_the_same_file_is_registered_once_and_a_later_one_replaces_nothing(
    store: Store, run: Run, tmp_path: Path
) -> None:
    first, new = register(store, run, tmp_path, b"one", 0.5)
    assert (first.label, first.score, first.tags["trial"], new) == ("demo@1", 0.5, "3", True)
    assert register(store, run, tmp_path, b"one", 0.5) == (first, False)
    second, new = register(store, run, tmp_path, b"two", 0.75)  # the training went on
    assert (second.label, new) == ("demo@2", True)
    for version, content in ((first, b"one"), (second, b"two")):
        assert run.artifact_path(artifact_of(version)).read_bytes() == content
    assert store.registry.versions("demo") == [second, first]
    assert store.registry.versions("other") == []


def test_mlflow_itself_finds_the_file(
    store: Store, client: MlflowClient, run: Run, tmp_path: Path
) -> None:
    version, _ = register(store, run, tmp_path, b"one", 0.5)
    store.registry.challenge(version)
    found = client.get_model_version_by_alias("demo", "champion")
    assert (Path(found.source.removeprefix("file://")) / "generator.pt").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("scores", "champions"),
    [
        ([1.0, 2.0], [1, 2]),
        ([2.0, 1.0], [1, 1]),
        ([1.0, 1.0], [1, 1]),  # no better: the first stays
        ([-3.0, -2.0, -4.0, 0.0], [1, 2, 2, 4]),
    ],
)
def test_only_a_better_score_takes_the_alias(
    store: Store, run: Run, tmp_path: Path, scores: list[float], champions: list[int]
) -> None:
    for number, (score, champion) in enumerate(zip(scores, champions, strict=True), start=1):
        before = store.registry.holder("demo")
        version, _ = register(store, run, tmp_path, bytes([number]), score)
        challenge = store.registry.challenge(version)
        assert (challenge.won, challenge.before) == (champion == number, before)
        holder = store.registry.holder("demo")
        assert holder is not None
        assert holder.version == champion
        assert store.registry.challenge(holder).won  # compared with itself, it stays


def test_a_champion_without_a_score_was_chosen_by_hand_and_stays(
    store: Store, client: MlflowClient, run: Run, tmp_path: Path
) -> None:
    register(store, run, tmp_path, b"one", 0.5)
    source = f"{client.get_run(run.id).info.artifact_uri}/checkpoints"
    client.create_model_version("demo", source=source, run_id=run.id)
    client.set_registered_model_alias("demo", "champion", "2")
    better, _ = register(store, run, tmp_path, b"three", 99.0)
    challenge = store.registry.challenge(better)
    assert not challenge.won
    assert challenge.before is not None
    assert artifact_of(challenge.before) == "checkpoints/generator.pt"


def test_names_of_models(store: Store, client: MlflowClient, run: Run, tmp_path: Path) -> None:
    find = store.registry.find
    with pytest.raises(DataError, match=r"is champion yet; make one: cyclegan promote"):
        find("champion")
    with pytest.raises(DataError, match=r"no model 'demo' is registered.*none has been promoted"):
        find("demo@champion")
    version, _ = register(store, run, tmp_path, b"one", 0.5)
    with pytest.raises(DataError, match=r"demo@champion is not registered; known: demo@1"):
        find("demo@champion")
    store.registry.challenge(version)
    client.set_registered_model_alias("demo", "favourite", "1")
    for name in ("champion", "demo@champion", "demo@1", "demo@favourite"):
        assert find(name) == version
    for name in ("demo@2", "demo@", "demo@latest-of-all"):
        with pytest.raises(DataError, match=r"known: demo@champion, demo@favourite, demo@1"):
            find(name)
    with pytest.raises(DataError, match=r"no model 'dmeo'.*did you mean 'demo'"):
        find("dmeo@1")
    other, _ = register(store, run, tmp_path, b"one", 0.5, model="second")
    store.registry.challenge(other)
    with pytest.raises(UsageError, match=r"any of demo@champion, second@champion"):
        find("champion")


def test_a_version_that_lies_in_no_run_is_refused() -> None:
    def version(source: str, run_id: str = "r1") -> ModelVersion:
        return ModelVersion(model="m", version=1, run_id=run_id, source=source, tags={})

    assert artifact_of(version("runs:/r1/checkpoints")) == "checkpoints/generator.pt"
    assert artifact_of(version("mlflow-artifacts:/4/r1/artifacts/a/b/")) == "a/b/generator.pt"
    for wrong in (version("/somewhere/model"), version("/a/artifacts/b", run_id="")):
        with pytest.raises(DataError, match="belongs to no run"):
            artifact_of(wrong)


def test_a_description_keeps_what_others_wrote(store: Store, run: Run) -> None:
    note = with_paragraph("", "Promoted to", "[a](#x)")
    assert note == "Promoted to [a](#x)"
    note = f"Mine.\n\n{note}\n\nPromoted by hand."
    assert with_paragraph(note, "Promoted to", "b") == "Mine.\n\nPromoted to b\n\nPromoted by hand."
    run.set_tags({"mlflow.note.content": "Mine."})
    for name in ("a", "b"):
        run.annotate("Promoted to", name)
    assert store.find_run(run.id).tags["mlflow.note.content"] == "Mine.\n\nPromoted to b"
    assert run.link() == (
        f"[trial-1](#/experiments/{run.experiment_id}/runs/{run.id}?workflowType=machine_learning)"
    )


@pytest.mark.slow
def test_all_of_it_through_a_server(store: Store, tmp_path: Path) -> None:
    with running_server(store, free_port()) as server:
        remote = Store.open(server.address)
        run = remote.create_run("elsewhere", "remote", kind="promoted", params={}, tags={})
        version, new = register(remote, run, tmp_path, b"one", 0.5)
        assert new
        assert register(remote, run, tmp_path, b"one", 0.5) == (version, False)
        assert remote.registry.challenge(version).won
        assert remote.registry.find("champion") == version
        assert run.artifact_path(artifact_of(version)).read_bytes() == b"one"
    assert store.registry.find("demo@1").run_id == run.id


ABOUT: dict[str, Any] = {
    "input": {"name": "x", "dtype": "float32", "shape": [-1, 2, -1, -1, -1]},
    "output": {"name": "y", "dtype": "float32", "shape": [-1, 1, -1, -1, -1]},
    "scale": 2.0,
    "versions": {"torch": "2.13.0"},
}


def test_mlflow_knows_sizes_and_halo_of_an_exported_generator(
    store: Store, client: MlflowClient, run: Run, tmp_path: Path
) -> None:
    version, _ = register(store, run, tmp_path, b"one", 0.5)
    assert version.portable is None
    exported = tmp_path / "generator.pt2"
    exported.write_bytes(b"two")
    store.registry.attach(version, run, exported, ABOUT)
    found = store.registry.find("demo@1")
    assert found.portable is not None
    assert run.artifact_path(found.portable).read_bytes() == b"two"
    assert found.tags["portable_sha256"] == hashlib.sha256(b"two").hexdigest()
    assert artifact_of(found) == artifact_of(version)  # as `enhance` takes it
    assert register(store, run, tmp_path, b"one", 0.5) == (found, False)
    # MLflow's pages read it so: the file MLmodel at the version's source.
    model = Model.load(client.get_model_version("demo", "1").source.removeprefix("file://"))
    assert model.signature is not None
    for schema, name in ((model.signature.inputs, "input"), (model.signature.outputs, "output")):
        (tensor,) = schema.inputs
        assert (tensor.name, tensor.shape) == (ABOUT[name]["name"], tuple(ABOUT[name]["shape"]))
        assert tensor.type == "float32"
    assert model.metadata == ABOUT
    assert model.flavors == {"torch_export": {"data": "generator.pt2", "torch_version": "2.13.0"}}
