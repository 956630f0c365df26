"""A trial records its origin, and data that has changed since is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from cyclegan import Config, Trainer, load_config, parse_config
from cyclegan.errors import DataError
from search.study import run_study
from search.study.definition import parse_definition
from search.study.provenance import check_data, origin
from tracking import Store, provenance
from viz.console import Console

ROOT = Path(__file__).parents[3]


@pytest.fixture
def copied(
    tiny: dict[str, Any], datasets: tuple[Path, Path], tmp_path: Path, project: Path
) -> Config:
    """A configuration with its own data, at relative paths, in a project folder."""
    shutil.copytree(datasets[0].parent, tmp_path / "data")
    return parse_config(tiny | {"data_A": "data/fast.json", "data_B": "data/slow.json", "seed": 7})


def flip_a_byte(path: Path) -> None:
    with path.open("rb+") as handle:
        handle.seek(-1, 2)
        byte = handle.read(1)[0]
        handle.seek(-1, 2)
        handle.write(bytes([byte ^ 1]))


def test_origin_is_plain_and_complete(copied: Config) -> None:
    found = origin(copied)
    assert json.loads(json.dumps(found)) == found
    assert set(found["data"]) == {
        *("data/fast.json", "data/fast_train.h5", "data/fast_validate.h5"),
        *("data/slow.json", "data/slow_train.h5", "data/slow_validate.h5"),
    }
    assert found["seed"] == 7
    assert {"python", "torch", "optuna", "mlflow", "numpy"} <= set(found["versions"])
    assert re.fullmatch("[0-9a-f]{64}", found["lock_sha256"])


def test_origin_names_the_commit_and_whether_files_differ(copied: Config) -> None:
    def git(*arguments: str) -> str:
        line = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    if not commit:
        pytest.skip("not a git checkout")
    found = origin(copied)
    assert found["git_commit"] == commit
    assert found["git_modified"] == bool(git("status", "--porcelain", "--untracked-files=no"))


def test_origin_outside_of_a_checkout_says_so(
    copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", "/tracking/provenance.py")
    provenance.lock_sha256.cache_clear()
    found = origin(copied)
    provenance.lock_sha256.cache_clear()
    assert (found["git_commit"], found["git_modified"], found["lock_sha256"]) == (None, None, None)


def test_unchanged_data_pass_and_changed_data_are_refused_with_both_hashes(copied: Config) -> None:
    known = check_data({}, copied)
    assert check_data(known, copied) == known
    assert origin(copied)["data"] == known
    flip_a_byte(Path("data/fast_train.h5"))
    now = check_data({}, copied)["data/fast_train.h5"]
    before = known["data/fast_train.h5"]
    with pytest.raises(DataError) as caught:
        check_data(known, copied)
    assert str(caught.value) == (
        f"data/fast_train.h5 changed since the study began: {before[:19]}… then, {now[:19]}… now; "
        "restore the file or start a study under another name"
    )


def drop(path: Path) -> None:
    content = json.loads(path.read_text())
    content["validate"] = content["train"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: drop(Path("data/slow.json")), r"data/slow\.json changed .* \(and 1 more changes"),
        (lambda: Path("data/slow_train.h5").unlink(), r"data/slow_train\.h5: no such file"),
        (lambda: Path("data/slow.json").unlink(), r"data/slow\.json: no such file"),
        (
            lambda: shutil.copy("data/slow_train.h5", "data/fast_validate.h5"),
            r"data/fast_validate\.h5 changed since",
        ),
    ],
    ids=["json", "volume gone", "json gone", "other volume"],
)
def test_every_kind_of_change_is_refused(
    copied: Config, change: Callable[[], Any], message: str
) -> None:
    known = check_data({}, copied)
    change()
    with pytest.raises(DataError, match=message):
        check_data(known, copied)


def test_a_source_that_comes_back_is_a_change(copied: Config) -> None:
    """A missing source of a virtual dataset reads as fill values, which are other voxels."""
    train = Path("data/fast_train.h5")
    with h5py.File(train, "r") as handle:
        shape = handle["data"].shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("part.h5", "data", shape)
    train.rename("data/part.h5")
    with h5py.File(train, "w") as handle:
        handle.create_virtual_dataset("data", layout, fillvalue=0)
    Path("data/part.h5").rename("data/elsewhere.h5")
    known = check_data({}, copied)
    assert known["data/part.h5"] == "missing"
    Path("data/elsewhere.h5").rename("data/part.h5")
    with pytest.raises(DataError, match=r"part\.h5 changed since the study began: missing then"):
        check_data(known, copied)


@pytest.mark.slow
def test_a_trial_is_made_again_from_what_it_stores(
    copied: Config, project: Path, tiny: dict[str, Any]
) -> None:
    base = copied.to_dict() | {"filters": 4, "batch_size": 2, "lr_g": 5e-3}
    content = {
        "name": "s",
        "config": base,
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "pruner": {"name": "none"},
        "trials": 1,
        "steps": 12,
        "report_every": 4,
    }
    definition = parse_definition(content, project / "s.yaml")
    handle = run_study(definition, store=Store.open(), console=Console(quiet=True)).handle
    stored = load_config(handle.trial_folder(0) / "config.yaml", ["run_name=again"])
    assert stored.seed == 7
    assert Trainer(stored).fit().score == handle.best().score
