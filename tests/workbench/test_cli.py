"""The command line: help everywhere, one clear line for every mistake, the right exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from workbench import cli
from workbench.session import run

ROOT = Path(__file__).parents[2]

COMMANDS = [
    *(["simulate"], ["prepare"], ["train"], ["promote"], ["enhance"], ["viewer"], ["export"]),
    *(["ui"], ["compare"], ["doctor"]),
    *(["study", name] for name in ("run", "validate", "list", "show", "best")),
    *(["study", name] for name in ("export", "importance", "figures", "report", "unprune")),
    *(["runs", name] for name in ("list", "show", "gc")),
]


@pytest.fixture
def call(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", *arguments])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(call: Any, command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0
    text = " ".join(out.split())
    assert f"Example: cyclegan {' '.join(command)}" in text
    for option in ("--tracking-uri", "--quiet", "--debug", "--json"):
        assert option in text


def test_help_of_the_whole_names_every_command_and_is_quick() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "workbench.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 20  # only guards against a hang: see the imports below
    for name, *_ in COMMANDS:
        assert name in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "mlflow", "optuna", "scipy", "skimage", "h5py"}


def test_shell_completion_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", "--show-completion", "bash"],
        # Otherwise the shell is the one that started the tests, if any.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cyclegan" in done.stdout.lower()
    words = {"_CYCLEGAN_COMPLETE": "complete_bash", "COMP_WORDS": "cyclegan st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["study"], "")


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [("2>&-", "study show s --json", 2), ("2>&-", "runs list --json", 0), (">&-", "runs list", 0)],
)
def test_messages_for_a_closed_stream_go_nowhere_else(
    tmp_path: Path, closed: str, arguments: str, code: int
) -> None:
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -P -m workbench.cli {arguments} {closed}', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    if "--json" in arguments and code == 0:
        assert json.loads(done.stdout)["runs"] == []
    else:
        assert done.stdout == ""


def config_file(folder: Path, values: dict[str, Any]) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return "config.yaml"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trian"], 2, ["trian", "train"]),
        (["train"], 2, ["CONFIG"]),
        (["train", "none.yaml"], 2, ["none.yaml", "no such file"]),
        (["train", "c.yaml", "--hp-optimizer", "--replay", "s.yaml"], 2, ["--replay", "one of"]),
        (["study", "run", "none.yaml"], 2, ["none.yaml", "no such file"]),
        (["study", "validate", "none.yaml"], 2, ["none.yaml", "no such file"]),
        (["study", "show", "none"], 2, ["'none'", "was not started here"]),
        (["promote", "none"], 2, ["'none'", "was not started here"]),
        (["simulate", "out", "--scale", "3"], 2, ["--scale 3", "1, 2 or 4"]),
        (["simulate", "out", "--seed", "-1"], 2, ["--seed", "-1"]),
        (["enhance", "v.h5", "--model", "m"], 2, ["--output"]),
        (["enhance", "v.h5", "--model", "m", "--output", "o.h5"], 1, ["v.h5", "no such file"]),
        (["enhance", "v.h5", "--model", "m", "--output", "o.h5", "--tile", "3"], 2, ["--tile 3"]),
        (["ui", "--port", "0"], 2, ["--port"]),
        (["ui", "demo"], 2, ["demo", "--optuna"]),
        (["ui", "--optuna"], 2, ["no study has been run here yet"]),
        (["study", "export", "none", "--output", "s.csv"], 2, ["'none'", "not started here"]),
        (["study", "export", "none"], 2, ["--output"]),
        (["study", "importance", "none"], 2, ["'none'", "was not started here"]),
        (["study", "figures", "none"], 2, ["'none'", "was not started here"]),
        (["runs", "list", "--kind", "trail"], 2, ["--kind trail", "did you mean 'trial'"]),
        (["runs", "list", "--sort", "name"], 2, ["--sort name", "score, size, start"]),
        (["runs", "list", "--experiment", "none"], 1, ["'none'", "no experiment"]),
        (["runs", "show", "none"], 1, ["'none'", "it has no runs"]),
        (["compare", "one"], 2, ["2 to 8 runs, not 1"]),
        (["compare", "one", "two"], 1, ["'one'", "it has no runs"]),
        (["compare", "one", "two", "--html", "c.pdf"], 2, ["c.pdf", "must end in .html"]),
        (["compare", "one", "two", "--at", "first"], 2, ["--at first", "best, last"]),
        (["runs", "gc", "none", "--yes"], 1, ["'none'", "it has no runs"]),
        (["runs", "gc", "--keep-best", "0"], 2, ["--keep-best", "0"]),
    ],
)
def test_mistakes_give_one_line_and_the_right_code(
    call: Any, arguments: list[str], code: int, words: list[str]
) -> None:
    got, out, err = call(*arguments)
    assert got == code
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("net_A=UNetSim4d", 2, ["UNetSim4d", "did you mean 'UNetSim3d'"]),
        ("lamdas.C_A=1", 2, ["lamdas", "did you mean 'lambdas'"]),
        ("lr_g", 2, ["--set lr_g", "key=value"]),
        ("data_A=none.json", 1, ["none.json", "no such file"]),
        ("imsize_A=[64,64,64]", 1, ["does not fit", "imsize_A"]),
        ("device=cuda:7", 2, ["cuda:7", "GPU"]),
        ("hp_optimizer={enabled: true, policy: replay}", 2, ["hp_optimizer.schedule"]),
        (
            "hp_optimizer={enabled: true, policy: replay, schedule: none.yaml}",
            1,
            ["hp_optimizer.schedule = none.yaml", "no such file"],
        ),
        ("hp_optimizer={enabled: true, memory_gb: 1.0e-5}", 2, ["memory_gb", "spill = true"]),
        ("hp_optimizer.policy=gard", 2, ["hp_optimizer.policy", "gard", "guard"]),
    ],
)
def test_bad_training_input_leaves_nothing_behind(
    call: Any, tiny: dict[str, Any], override: str, code: int, words: list[str]
) -> None:
    path = config_file(Path.cwd(), tiny)
    got, _, err = call("train", path, "--set", override)
    assert got == code
    for word in words:
        assert word in err
    assert not list(Path.cwd().glob("results/*/*.pt"))
    assert not list(Path.cwd().glob("results/*/run.json"))


def test_debug_shows_the_traceback(call: Any) -> None:
    _, _, err = call("train", "none.yaml", "--debug")
    assert "Traceback" in err


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_volume_and_malformed_json(call: Any, tiny: dict[str, Any]) -> None:
    folder = Path.cwd()
    with h5py.File(folder / "v.h5", "w") as handle:
        handle["data"] = np.zeros((16, 16, 16), np.float32)
    truncated(folder / "v.h5")
    item = [{"path": "v.h5", "dset": "data"}]
    (folder / "d.json").write_text(json.dumps({"train": item, "validate": item}))
    path = config_file(folder, tiny | {"data_A": "d.json"})
    code, _, err = call("train", path)
    assert (code, "not a readable HDF5 file" in err) == (1, True)
    (folder / "d.json").write_text('{"train": [}')
    code, _, err = call("train", path)
    assert (code, "line 1, column 12" in err) == (1, True)


@pytest.mark.slow
def test_train_resume_and_the_answers_to_wrong_requests(call: Any, tiny: dict[str, Any]) -> None:
    path = config_file(Path.cwd(), tiny)
    code, _, err = call("train", path, "--resume", "--set", "run_name=other")
    assert (code, "no checkpoint yet; starting at step 0" in err) == (0, True)
    code, out, err = call("train", path, "--json", "--quiet")
    assert (code, err) == (0, "")
    first = json.loads(out)
    assert (first["outcome"], first["step"]) == ("completed", 12)
    code, _, err = call("train", path)
    assert (code, "--resume" in err) == (1, True)
    code, _, err = call("train", path, "--resume", "--set", "lr_g=0.5")
    assert (code, "lr_g" in err) == (2, True)
    code, out, _ = call("train", path, "--resume", "--set", "steps=15", "--json")
    more = json.loads(out)
    assert (code, more["step"], more["run_id"]) == (0, 15, first["run_id"])
    code, out, _ = call("train", path, "--resume", "--set", "steps=15", "--json")
    assert json.loads(out)["reused"]


def test_a_training_leaves_a_schedule_that_another_replays(call: Any, tiny: dict[str, Any]) -> None:
    path = config_file(Path.cwd(), tiny)
    code, _, err = call("train", path, "--hp-optimizer")
    assert code == 0, err
    schedule = Path("results") / tiny["run_name"] / "schedule.yaml"
    line = ["--replay", str(schedule), "--set", "run_name=again", "--set", "lr_g=0.0007"]
    code, out, _ = call("train", path, *line, "--json")
    assert (code, json.loads(out)["outcome"]) == (0, "completed")
    # The schedule counts, not the other options.
    again = yaml.safe_load((Path("results") / "again" / "schedule.yaml").read_text())
    assert again["changes"][0]["values"]["lr_g"] == tiny.get("lr_g", 2e-4)


@pytest.mark.slow
def test_enhance_with_a_generator_file(call: Any, tiny: dict[str, Any], datasets: Any) -> None:
    path = config_file(Path.cwd(), tiny)
    call("train", path, "--quiet")
    source = datasets[0].parent
    line = [
        *("enhance", str(source / "fast_validate.h5"), "--model", "results/tiny/save/generator.pt"),
        *("--output", "out/e.h5", "--json", "--quiet"),
    ]
    code, out, err = call(*line, "--reference", str(source / "slow_validate.h5"))
    assert code == 0, err
    data = json.loads(out)
    assert [row["name"] for row in data["quality"]] == ["input", "best Gaussian", "enhanced"]
    with h5py.File("out/e.h5") as handle:
        assert list(handle["data"].shape) == data["shape"] == [32, 40, 40]
    assert Path(data["picture"]).read_bytes().startswith(b"\x89PNG")
    before = Path("out/e.h5").read_bytes(), Path("out/e.html").read_bytes()
    code, out, _ = call(*line)
    again = json.loads(out)
    assert (code, again["resumed"], again["report"]) == (0, again["tiles"], data["report"])
    assert (Path("out/e.h5").read_bytes(), Path("out/e.html").read_bytes()) == before
    code, _, err = call(*line, "--compression", "none")
    assert (code, "--overwrite" in err) == (1, True)
    code, _, err = call(*line[:4], "--output", str(source / "fast_validate.h5"), "--overwrite")
    assert (code, "would replace this input" in err) == (1, True)
    code, out, _ = call(*line, "--overwrite", "--model", "tiny")
    assert code == 0  # the MLflow run of that name
    code, _, err = call(*line, "--overwrite", "--model", "tyni")
    assert (code, "tiny" in err) == (1, True)
    code, _, err = call(*line, "--overwrite", "--dataset", "tomo")
    assert (code, "datasets found: data" in err) == (1, True)
