"""The small demo end to end: the same program, real data, tiny networks and few steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from tracking import Store
from tracking.views import CYCLE_PICTURES

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[2] / "studies" / "demo.yaml"


@pytest.fixture(scope="module")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose demo study is a small version of the shipped one."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("studies", "mlruns"):
        (folder / name).mkdir()
    study = yaml.safe_load(SHIPPED.read_text())
    for recipe in SHIPPED.parent.glob("recipe*.yaml"):
        shutil.copy(recipe, folder / "studies")
    study["set"] |= {
        "filters": 4,
        "filters_D": 4,
        "layers_D": 1,
        "imsize_A": [8, 8, 8],
        "checkpoint_every": 4,
        "threads": 1,
        "validation_patches": 4,
        "device": "cpu",
        "pretrain_steps": 6,
    }
    study["space"]["lr_g"] |= {"low": 3e-3, "high": 1e-2}
    for values in study["enqueue"]:
        values["lr_g"] = 5e-3
    study |= {"trials": 4, "steps": 16, "report_every": 4}
    study["pruner"]["prune_after"] = 8
    study["promote"] |= {"steps": 28, "start": "continue"}
    study["promote"]["set"] = {
        "pretrain_steps": 12,
        "hp_optimizer": {"enabled": True, "warmup": 1000, "keep": 2},
    }
    (folder / "studies" / "demo.yaml").write_text(yaml.safe_dump(study))
    return folder


def run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "workbench.demo"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def first(project_folder: Path) -> subprocess.CompletedProcess[str]:
    return run_demo(project_folder)


def test_demo_ends_with_its_summary(
    first: subprocess.CompletedProcess[str], project_folder: Path
) -> None:
    assert first.returncode == 0, first.stderr
    for line in ("$ cyclegan simulate", "$ cyclegan study run", "$ cyclegan promote demo"):
        assert line in first.stderr
    for words in (
        "best trial",
        "Promoted to demo-promoted",
        "best Gaussian",
        "enhanced",
        "make ui",
    ):
        assert words in first.stdout
    enhanced = json.loads((project_folder / "results/demo/enhanced.json").read_text())
    assert enhanced["verdict"]
    assert enhanced["verdict"] in first.stdout


def test_the_enhanced_volume_is_the_promoted_generator_s_and_aligned(
    first: subprocess.CompletedProcess[str], project_folder: Path
) -> None:
    from cyclegan import enhance_array, load_generator

    (model,) = project_folder.glob("results/demo/demo-promoted-*/save/generator.pt")
    with h5py.File(project_folder / "data/demo/fast_validate.h5") as handle:
        source = handle["data"][:]
    with h5py.File(project_folder / "results/demo/enhanced.h5") as handle:
        enhanced = handle["data"][:]
    assert enhanced.shape == source.shape
    kept = load_generator(model)
    (checkpoint,) = project_folder.glob("results/demo/demo-promoted-*/save/checkpoint.pt")
    assert kept.step <= load_generator(checkpoint).step
    np.testing.assert_allclose(enhanced, enhance_array(kept.network, source), atol=1e-4)


def test_everything_is_in_mlflow(
    first: subprocess.CompletedProcess[str], project_folder: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project_folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_kind: dict[str, list] = {}
    for run in runs:
        by_kind.setdefault(run.data.tags["kind"], []).append(run)
    assert {kind: len(found) for kind, found in by_kind.items()} == {
        "study": 1,
        "trial": 4,
        "promoted": 1,
        "enhance": 1,
    }
    (study,), (promoted,), (enhance,) = (by_kind[k] for k in ("study", "promoted", "enhance"))
    assert {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
    for run in (*by_kind["trial"], promoted):
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
        for metric in ("loss/P_A_l1", "score", "hparam/lr_g", "hparam/lambdas.C_A"):
            assert metric in run.data.metrics, metric
        # Without adversarial losses there are no discriminators.
        judged = run.data.metrics["hparam/lambdas.G_A"] > 0
        assert ("D_A/accuracy" in run.data.metrics) == judged
        for param in ("lr_g", "lambdas.C_A", "net_A"):
            assert param in run.data.params, param
        names = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "images", "volumes", "checkpoints"} <= names
    volumes = client.list_artifacts(promoted.info.run_id, "volumes")
    viewers = client.list_artifacts(promoted.info.run_id, "viewer")
    assert [Path(f.path).stem for f in volumes] == [Path(f.path).stem for f in viewers]
    for kept in volumes:
        with h5py.File(client.download_artifacts(promoted.info.run_id, kept.path)) as handle:
            for name in ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"):
                assert handle[name].size > 0
    assert {"report.html", "study.yaml"} <= {
        f.path for f in client.list_artifacts(study.info.run_id)
    }
    best = next(t for t in by_kind["trial"] if t.info.run_id == promoted.data.tags["promoted_from"])
    assert best.data.tags["promoted_to"] == promoted.info.run_id
    # A continued training shows its start.
    store = Store.open(f"sqlite:///{project_folder / 'mlruns' / 'mlflow.db'}")
    pictures = store.run(promoted.info.run_id).image_steps(CYCLE_PICTURES)
    assert min(pictures) == best.data.metrics["iteration"]
    for row in ("input", "best_Gaussian", "enhanced"):
        assert f"psnr/{row}" in enhance.data.metrics


def test_called_again_it_goes_on_instead_of_starting_anew(
    first: subprocess.CompletedProcess[str], project_folder: Path
) -> None:
    files = [p for p in project_folder.glob("results/**/*") if p.is_file() and p.name != ".lock"]
    before = {p: p.stat().st_mtime_ns for p in files}
    again = run_demo(project_folder)
    assert again.returncode == 0, again.stderr
    after = {p: p.stat().st_mtime_ns for p in files}
    assert before == after
    assert again.stdout.split("Clock:")[0] == first.stdout.split("Clock:")[0]
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "workbench.cli", "study", "show", "demo", "--json"],
            cwd=project_folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert shown["trials_finished"] == 4
