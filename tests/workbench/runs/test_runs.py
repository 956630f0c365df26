"""`cyclegan runs`: one line per run, one screen per run, and deletion only on request."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tracking import Run, Store
from workbench import cli
from workbench.runs.gc import LOCK
from workbench.runs.listing import fitted
from workbench.session import run as run_app


@pytest.fixture
def call(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", *arguments])
        code = run_app(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


def made(name: str, kind: str, status: Any = "FINISHED", **given: Any) -> Run:
    score, parent = given.pop("score", None), given.pop("parent", None)
    experiment = "demo" if "study" in given else "train"
    tags = {key: str(value) for key, value in given.items()}
    run = Store.open().create_run(
        experiment, name, kind=kind, params={"lr_g": 1e-3}, tags=tags, parent=parent
    )
    run.log_text("x" * 2000, "volumes/cycle.h5")
    run.log_text("a: 1", "config.yaml")
    run.log_metrics({"step": 100.0} | ({} if score is None else {"score/value": score}))
    if status:
        run.finish(status)
    return run


@pytest.fixture
def runs(project: Path) -> dict[str, Run]:
    """A study with four trials, number 3 of them promoted, and two trainings."""
    study = made("demo", "study", study="demo")
    found = {"demo": study}
    for number in range(4):
        state = {"state": "complete", "outcome": "completed"}
        status = "FINISHED"
        if number == 1:
            state, status = {"state": "pruned", "outcome": "pruned"}, "KILLED"
        tags = {"study": "demo", "trial": number, "parent": study.id, **state}
        found[f"demo-{number}"] = made(
            f"demo-{number}", "trial", status, score=-float(number), **tags
        )
    tags = {"study": "demo", "trial": 3, "promoted_from": found["demo-3"].id, "start": "continue"}
    found["demo-promoted-3"] = made("demo-promoted-3", "promoted", parent=study.id, **tags)
    found["demo-3"].set_tags({"promoted_to": found["demo-promoted-3"].id})
    found["broken"] = made("broken", "train", "FAILED", outcome="failed")
    found["going"] = made("going", "train", None)
    return found


def names(entries: list[dict[str, Any]]) -> set[str]:
    return {entry["name"] for entry in entries}


def test_list_names_the_newest_first_and_adds_up(call: Any, runs: dict[str, Run]) -> None:
    code, out, err = call("runs", "list")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in lines[1:9]] == list(reversed(runs))
    assert lines[0].split()[:4] == ["id", "run", "experiment", "kind"]
    assert "8 runs, 16 kB" in out
    states = {line.split()[1]: line.split()[4] for line in lines[1:9]}
    assert states["going"] == "running"
    assert (states["broken"], states["demo-1"]) == ("failed", "pruned")


def test_list_filters_sorts_and_counts_what_it_leaves_out(call: Any, runs: dict[str, Run]) -> None:
    def listed(*options: str) -> dict[str, Any]:
        code, out, _ = call("runs", "list", "--json", *options)
        assert code == 0
        data: dict[str, Any] = json.loads(out)
        return data

    assert names(listed("--kind", "trial")["runs"]) == {f"demo-{n}" for n in range(4)}
    assert names(listed("--experiment", "train")["runs"]) == {"broken", "going"}
    assert names(listed("--status", "pruned")["runs"]) == {"demo-1"}
    assert names(listed("--status", "failed")["runs"]) == {"broken"}
    best = listed("--sort", "score", "--limit", "2")
    assert [run["name"] for run in best["runs"]] == ["demo-0", "demo-1"]
    assert best["matching"] == 8
    runs["demo-2"].log_text("x" * 9000, "volumes/more.h5")
    assert listed("--sort", "size", "--limit", "1")["runs"][0]["bytes"] == 11_004
    MlflowClient(Store.open().uri).delete_run(runs["broken"].id)
    data = listed()
    assert (data["deleted_runs"], data["deleted_bytes"]) == (1, 2004)
    assert "broken" not in names(data["runs"])
    assert names(listed("--status", "deleted")["runs"]) == {"broken"}


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_a_table_fits_its_terminal_and_keeps_the_ends_of_names(width: int) -> None:
    columns = (
        "id",
        "run",
        "experiment",
        "kind",
        "state",
        "score",
        "steps",
        "start",
        "took",
        "size",
    )
    long = "a_study_with_a_very_long_name_that_goes_on_and_on"
    line = dict.fromkeys(columns, "12345678") | {"run": f"{long}-007", "experiment": long}
    text = fitted(columns, [line, line | {"start": "11-23 02:35"}], width)
    assert max(map(len, text.splitlines())) <= width
    for column in ("id", "run", "state", "score", "start", "size"):
        assert column in text.splitlines()[0].split()
    assert "-007" in text
    assert long in fitted(columns, [line], None)


@pytest.mark.parametrize("name", ["demo-3", "demo:3", "id", "prefix"])
def test_show_finds_a_run_by_every_name(call: Any, runs: dict[str, Run], name: str) -> None:
    run_id = runs["demo-3"].id
    text = {"id": run_id, "prefix": run_id[:6]}.get(name, name)
    code, out, _ = call("runs", "show", text, "--json")
    data = json.loads(out)
    assert (code, data["id"], data["study"], data["trial"]) == (0, run_id, "demo", "3")
    assert data["promoted_to"]["name"] == "demo-promoted-3"
    assert data["stays"] == "it became demo-promoted-3"
    assert {file["path"]: file["bytes"] for file in data["artifacts"]} == {
        "config.yaml": 4,
        "volumes/cycle.h5": 2000,
    }


def test_the_beginning_of_two_ids_is_refused(call: Any, project: Path) -> None:
    store, ids = Store.open(), []
    for name in ("one", "two"):
        ids.append(store.create_run("train", name, kind="train", params={}, tags={}).id)
    with contextlib.closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as connection:
        for table in ("tags", "runs"):
            for old, new in zip(ids, ("abcdef" + "0" * 26, "abcdef" + "1" * 26), strict=True):
                line = f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?"  # noqa: S608
                connection.execute(line, (new, old))
        connection.commit()
    code, _, err = call("runs", "show", "abcdef")
    assert (code, "2 runs begin with abcdef" in err) == (2, True)
    code, out, _ = call("runs", "show", "abcdef1", "--json")
    assert (code, json.loads(out)["name"]) == (0, "two")
    code, _, err = call("runs", "show", "abcde")
    assert (code, "no run is called 'abcde'" in err) == (1, True)


def test_show_tells_the_training_folder_that_is_not_mlflows(
    call: Any, runs: dict[str, Run], project: Path
) -> None:
    folder = project / "results" / "demo" / "trial-002"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": runs["demo-2"].id}))
    (folder / "checkpoint.pt").write_bytes(b"x" * 5000)
    (project / "results" / "run.json").mkdir()  # any other file there
    (project / "results" / "x").mkdir()
    (project / "results" / "x" / "run.json").write_text("{half")
    code, out, _ = call("runs", "show", "demo:2")
    assert code == 0
    assert f"folder   {folder}" in out
    assert "5.0 kB; checkpoints, which runs gc" in out
    assert max(map(len, (line for line in out.splitlines() if "/" not in line))) <= 100
    call("runs", "gc", "demo:2", "--yes")
    assert (folder / "checkpoint.pt").exists()


def test_gc_without_a_choice_only_offers_what_was_deleted_or_failed_long_ago(
    call: Any, runs: dict[str, Run]
) -> None:
    code, out, _ = call("runs", "gc", "--dry-run", "--json")
    data = json.loads(out)
    assert (code, data["free"], data["dry_run"]) == (0, [], True)
    offered = {rule["rule"]: (rule["runs"], rule["chosen"]) for rule in data["rules"]}
    assert offered == {
        "deleted": (0, True),
        "failed": (0, True),
        "pruned": (1, False),
        "worse": (0, False),
        "orphans": (0, False),
    }
    assert call("runs", "gc", "--yes")[:2] != (0, "")
    assert len(Store.open().search()) == len(runs)


def test_gc_refuses_without_a_terminal_and_changes_nothing(
    call: Any, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        code, out, err = call("runs", "gc", "--pruned")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "1 run, 2.0 kB" in err
    assert "--yes" in err
    assert len(Store.open().search(stage="all")) == len(runs)


def test_gc_deletes_what_was_chosen_and_says_so(
    call: Any, runs: dict[str, Run], project: Path
) -> None:
    code, out, _ = call("runs", "gc", "--pruned", "--failed-days", "0", "--yes", "--json")
    data = json.loads(out)
    assert (code, names(data["deleted"]), data["errors"]) == (0, {"demo-1", "broken"}, [])
    assert data["freed_bytes"] == data["free_bytes"] == 4008
    left = {run.name for run in Store.open().search(stage="all")}
    assert left == set(runs) - {"demo-1", "broken"}
    assert len(list((project / "mlruns" / "artifacts").iterdir())) == len(left)
    code, out, _ = call("runs", "gc", "--pruned", "--failed-days", "0", "--yes")
    assert (code, "nothing to delete" in out) == (0, True)
    code, out, _ = call("doctor", "--json")
    assert (code, json.loads(out)) == (0, [])


def test_gc_keeps_the_promoted_whatever_it_is_told(call: Any, runs: dict[str, Run]) -> None:
    for name in ("demo-promoted-3", "demo-3", "going", "demo"):
        code, out, err = call("runs", "gc", name, "--keep-best", "1", "--yes")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"run {name} " in err
    code, out, _ = call("runs", "gc", "--keep-best", "1", "--pruned", "--deleted", "--yes")
    assert code == 0
    assert "demo-3" in {run.name for run in Store.open().search()}
    left = {run.name for run in Store.open().search() if run.name.startswith("demo")}
    assert left == {"demo", "demo-0", "demo-3", "demo-promoted-3"}


def test_a_name_of_several_runs_is_refused(call: Any, runs: dict[str, Run]) -> None:
    made("broken", "train", "FAILED")
    code, _, err = call("runs", "gc", "broken", "--yes")
    assert (code, "2 runs have that name" in err) == (2, True)
    assert len(Store.open().search()) == len(runs) + 1


def test_orphans_go_only_when_asked_for(call: Any, runs: dict[str, Run], project: Path) -> None:
    lost = project / "mlruns" / "artifacts" / ("a" * 32)
    (lost / "artifacts").mkdir(parents=True)
    (lost / "artifacts" / "f").write_bytes(b"x" * 700)
    code, out, _ = call("runs", "gc", "--pruned", "--yes")
    assert (code, str(lost) in out or "deleted 1 run" in out, lost.exists()) == (0, True, True)
    code, out, _ = call("runs", "gc", "--orphans", "--yes", "--json")
    data = json.loads(out)
    assert (code, data["deleted_folders"], data["freed_bytes"]) == (0, [str(lost)], 700)
    assert not lost.exists()
    assert len(list(lost.parent.iterdir())) == len(runs) - 1


def test_a_store_that_others_use_shows_only_the_studies_of_this_project(
    call: Any, runs: dict[str, Run], project: Path, tmp_path: Path
) -> None:
    other = tmp_path / "shared.db"
    (project / "mlruns" / "mlflow.db").rename(other)
    (project / "artifacts").symlink_to(project / "mlruns" / "artifacts")
    uri = ("--tracking-uri", f"sqlite:///{other}")

    def free(*options: str) -> set[str]:
        code, out, _ = call("runs", "gc", "--failed-days", "0", "--pruned", *uri, *options)
        assert code == 0
        data = json.loads(out)
        assert bool(data["scope"]) is not bool(options[2:])
        return names(data["free"])

    assert free("--dry-run", "--json") == set()
    (project / "studies" / "local" / "demo").mkdir(parents=True)
    (project / "studies" / "local" / "demo" / "study.yaml").touch()
    assert free("--dry-run", "--json") == {"demo-1"}
    assert free("--dry-run", "--json", "--experiment", "train") == {"broken"}


def test_one_collection_at_a_time(call: Any, runs: dict[str, Run], project: Path) -> None:
    with (project / "mlruns" / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, _, err = call("runs", "gc", "--pruned", "--yes")
        assert (code, "in use by process" in err) == (1, True)
        assert len(Store.open().search()) == len(runs)
        assert call("runs", "gc", "--pruned", "--dry-run")[0] == 0
    assert call("runs", "gc", "--pruned", "--yes")[0] == 0


def test_interrupted_it_tells_what_was_done(
    call: Any, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracking.deletion import Remover

    def interrupt(*arguments: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Remover, "free_rows", interrupt)
        code, out, _ = call("runs", "gc", "--pruned", "--yes", "--json")
    assert (code, json.loads(out)["interrupted"]) == (130, True)
    assert call("runs", "gc", "--pruned", "--yes")[0] == 0
    assert "demo-1" not in {run.name for run in Store.open().search(stage="all")}


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [("n\n", 8), ("\n", 8), ("y\n", 7), ("\x04", 8)])
def test_it_asks_on_a_terminal(runs: dict[str, Run], answer: str, left: int) -> None:
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "workbench.cli", "runs", "gc", "--pruned"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    with subprocess.Popen(
        line, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.write(ours, answer.encode())
        out, err = (text.decode() for text in process.communicate(timeout=300))
    os.close(ours)
    os.close(theirs)
    assert "Permanently delete 1 run, 2.0 kB?" in err
    assert "demo-1" in err  # the list is shown before the question
    assert len(Store.open().search(stage="all")) == left
    assert process.returncode == (130 if answer == "\x04" else 0)
    if answer != "\x04":
        assert ("deleted 1 run" if left == 7 else "nothing was deleted") in out
