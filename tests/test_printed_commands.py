"""Commands that messages print for pasting: each is listed, parses, and does what is promised."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from cyclegan.config.sections import RunName
from cyclegan.errors import CycleGANError
from cyclegan.files import shell_word
from cyclegan.portable import ExportResult
from cyclegan.simulate import real
from search.study import StudyHandle, open_study
from search.study.storage import storage_for
from tracking import Store
from workbench import cli
from workbench.export import output_of
from workbench.session import run

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("cyclegan", "viz", "tracking", "search", "workbench")
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
PROGRAMS = re.compile(
    r"(?<![\w/.-])(?:(?:\.venv/bin/)?(?:cyclegan|mlflow|optuna|pip|h5clear|unzip|silx|python|git"
    r"|sqlite3|conda|apt-get|sudo|ssh|chmod|lsof|nvidia-smi|psql|createdb|docker|curl|wget)"
    rf" (?=[-a-z{{'<>])|make (?:{'|'.join(TARGETS)})\b)"
)
"""Where a command begins in a text."""

STUDY = "A.b_c-9"
AWKWARD = shell_word("-it's $HOME/`x`; ü.h5")
URI = shlex.quote("sqlite+pysqlite:////a b/it's %25/m.db")
FILLS = {
    **dict.fromkeys(("name", "handle.definition.name", "begun.handle.definition.name"), STUDY),
    **dict.fromkeys(("self.study", "study", "study['study']"), STUDY),
    "found[0].parent.name": STUDY,
    **dict.fromkeys(("trial", "wanted + 10", "more", "AT_LEAST", "found.id"), "12"),
    **dict.fromkeys(("shell_word(path)", "shell", "file"), AWKWARD),
    "shlex.quote(self.shown)": URI,
    "shlex.quote(without_secrets(location.uri))": URI,
    "shlex.join(arguments)": shlex.join(["enhance", "a b.h5", "--model", "m", "--output", "c.h5"]),
    "run_id": "0123456789abcdef0123456789abcdef",
    "self.run_id": "0123456789abcdef0123456789abcdef",
    "facts.name": "s",
    "last": "7",
    "PACKAGE": real.PACKAGE,
    "VERSION": real.VERSION,
}
"""What stands for a value in a command: the most awkward one that it may have.

Names of studies need no quotes: see `test_no_name_of_a_study_needs_quotes`.
"""


@dataclass(frozen=True)
class Printed:
    """A command in the text of a file; `{...}` are its values."""

    file: str
    command: str
    mention: bool = False
    """True if the text only names the command: arguments may be missing."""


def examples() -> Iterator[Printed]:
    """Yield the example of every command's help."""
    for file in ("cli.py", "cli_study.py", "cli_runs.py"):
        text = (ROOT / "workbench" / file).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg in ("example", "epilog"):
                value = node.value
                if isinstance(value, ast.Constant):
                    yield Printed(f"workbench/{file}", value.value.removeprefix("Example: "))


PRINTED = [
    *examples(),
    Printed("cyclegan/data/dataset.py", "cyclegan prepare", mention=True),
    Printed("cyclegan/data/hdf5_source.py", "h5clear -s {shell_word(path)}"),
    Printed("cyclegan/data/region.py", "cyclegan prepare", mention=True),
    Printed("cyclegan/prepare/arrays.py", "pip install 'cyclegan3d[zarr]'"),
    Printed("cyclegan/prepare/tiff.py", "pip install imagecodecs"),
    Printed("cyclegan/simulate/real.py", "pip install --no-deps {PACKAGE}=={VERSION}"),
    Printed("cyclegan/simulate/real.py", "make install"),
    Printed("tracking/moved.py", "cyclegan doctor --adopt"),
    Printed("tracking/outbox/writer.py", "cyclegan doctor"),
    Printed("tracking/registry.py", "cyclegan promote STUDY"),
    Printed("tracking/schema.py", "mlflow db upgrade {shlex.quote(without_secrets(location.uri))}"),
    Printed("tracking/schema.py", "pip install --upgrade mlflow"),
    Printed("tracking/store.py", "mlflow experiments restore --experiment-id {found.id}"),
    Printed("tracking/store.py", "mlflow runs restore --run-id {run_id}"),
    Printed("search/models.py", "cyclegan promote {found[0].parent.name} --trial {trial}"),
    Printed(
        "search/promotion/confirm.py",
        "cyclegan study run {handle.definition.name} --trials {more}",
    ),
    Printed("search/promotion/promote.py", "cyclegan study run {name}"),
    Printed("search/promotion/screening.py", "cyclegan promote {self.study} --top {AT_LEAST}"),
    Printed("search/study/importance.py", "cyclegan study run {name}"),
    Printed("search/study/importance.py", "cyclegan study run {name} --trials {wanted + 10}"),
    Printed("search/study/report/panels.py", "cyclegan promote {facts.name} --trial {last}"),
    Printed("search/study/runner.py", "cyclegan study run {begun.handle.definition.name}"),
    Printed(
        "search/study/storage.py", "optuna storage upgrade --storage {shlex.quote(self.shown)}"
    ),
    Printed("search/study/proxy.py", "cyclegan study serve", mention=True),
    Printed("search/study/storage.py", "pip install --upgrade optuna"),
    Printed("search/study/storage.py", "pip install 'cyclegan3d[grpc]'"),
    Printed("search/study/storage.py", "pip install 'psycopg[binary]'"),
    Printed("search/study/study.py", "cyclegan study run {name}"),
    Printed("search/study/study.py", "cyclegan study show {name}"),
    Printed("search/study/worker.py", "cyclegan study show {name}"),
    Printed("workbench/cli.py", "cyclegan enhance", mention=True),
    Printed("workbench/cli_study.py", "cyclegan study run {name}"),
    Printed("workbench/cli_study.py", "cyclegan train", mention=True),
    Printed("workbench/cli_study.py", "cyclegan study run {name} --slurm"),
    Printed("workbench/cluster/command.py", "cyclegan study show {name}"),
    Printed("workbench/cluster/command.py", "cyclegan study cancel {name}"),
    Printed("workbench/cluster/command.py", "cyclegan ui --host ADDRESS"),
    Printed("workbench/cluster/submission.py", "pip install 'cyclegan3d[slurm]'"),
    Printed("workbench/compare/runs.py", "cyclegan runs list"),
    Printed("workbench/dashboard.py", "cyclegan study run FILE.yaml"),
    Printed("workbench/study_tables.py", "cyclegan study export {name} --output trials.csv"),
    Printed("workbench/serving.py", "pip install 'cyclegan3d[grpc]'"),
    Printed("workbench/dashboard.py", "cyclegan study", mention=True),
    Printed("workbench/demo.py", "cyclegan {shlex.join(arguments)}"),
    Printed("workbench/demo.py", "make ui"),
    Printed("workbench/demo.py", ".venv/bin/cyclegan study show {study['study']}"),
    Printed("workbench/demo.py", ".venv/bin/cyclegan promote {study['study']} --steps 6000"),
    Printed("workbench/demo.py", "silx view", mention=True),
    Printed("workbench/doctor.py", "cyclegan doctor"),
    Printed("workbench/enhancement/judging.py", "cyclegan enhance", mention=True),
    Printed("workbench/enhancement/run.py", "silx view {shell}"),
    Printed("workbench/enhancement/run.py", "cyclegan viewer {shell}"),
    Printed(
        "workbench/enhancement/run.py",
        "mlflow artifacts log-artifact --run-id {self.run_id} --artifact-path volume "
        "--local-file {file}",
    ),
    Printed("workbench/export.py", "unzip -p {file} '*/recipe.py'"),
    Printed("workbench/export.py", "python recipe.py {file} IN.h5 OUT.h5"),
    Printed(
        "workbench/promotion.py", "cyclegan enhance VOLUME --model {study}:{trial} --output OUTPUT"
    ),
    Printed("workbench/runs/gc.py", "cyclegan runs gc --deleted --tracking-uri DATABASE"),
    Printed("workbench/runs/listing.py", "cyclegan runs gc"),
    Printed("workbench/runs/show.py", "cyclegan ui"),
    Printed("workbench/study_tables.py", "cyclegan train {shell_word(path)}"),
]
"""Every command in a text of the five floors."""

NO_COMMANDS = {"tracking/store.py": "cyclegan {kind}"}
"""Texts that look like one: the source that MLflow shows for a run."""


# -- Every command in the code is in the list ---------------------------------------------------


@cache
def texts(file: str) -> tuple[str, ...]:
    """Return the texts of a Python file but its docstrings, with `{...}` for values."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    passed = {n.value for n in nodes if isinstance(n, ast.Expr)}
    passed |= {part for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
    found = []
    for node in nodes:
        if node in passed:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(_template(part) for part in node.values))
    return tuple(found)


def _template(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return f"{{{ast.unparse(part.value)}}}"
    assert isinstance(part, ast.Constant)
    return str(part.value)


def sources() -> list[str]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def listed(text: str, start: int, commands: list[str]) -> str | None:
    """Return the longest of the commands that stands there, up to its end."""
    ends = r"(?=$|[\s`';,.)]|\\n)"
    fitting = [c for c in commands if re.match(re.escape(c) + ends, text[start:])]
    return max(fitting, key=len, default=None)


def test_the_list_has_every_command_that_a_text_prints() -> None:
    seen = set()
    for file in sources():
        commands = [p.command for p in PRINTED if p.file == file]
        commands += [NO_COMMANDS[file]] if file in NO_COMMANDS else []
        for text in texts(file):
            for begin in PROGRAMS.finditer(text):
                found = listed(text, begin.start(), commands)
                assert found, f"{file}: add to PRINTED: {text[begin.start() :]!r}"
                seen.add((file, found))
    known = {(p.file, p.command) for p in PRINTED} | set(NO_COMMANDS.items())
    assert known == seen


def test_a_new_command_in_a_text_would_be_found() -> None:
    for text in ("run: mlflow gc", "`cyclegan doctor`", "then make ui", "try pip install x"):
        assert PROGRAMS.search(text), text
    assert not PROGRAMS.search("make it smaller, or read the page about cyclegan")


def test_pages_print_no_commands() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".html", ".js"):
                assert not PROGRAMS.search(path.read_text(encoding="utf-8")), path


# -- Every command parses -----------------------------------------------------------------------


def filled(printed: Printed) -> list[str]:
    """Return the words of a command with awkward values."""
    line = re.sub(r"\{((?:[^{}])+)\}", lambda found: FILLS[found[1]], printed.command)
    return shlex.split(line)


def parsed(group: Any, words: list[str], *, mention: bool = False) -> None:
    """Parse words as click's group would; its errors are exceptions."""
    while hasattr(group, "commands"):
        if mention and not words:
            return
        assert words and words[0] in group.commands, words
        group, words = group.commands[words[0]], words[1:]
    if not mention:
        group.make_context("command", list(words))


def pip_parsed(words: list[str]) -> None:
    from packaging.requirements import Requirement
    from pip._internal.commands import create_command

    options, requirements = create_command(words[0]).parse_args(words[1:])
    assert words[0] == "install"
    assert [Requirement(text).name for text in requirements]
    assert not options.help


def optuna_parsed(words: list[str]) -> None:
    from optuna.cli import _get_parser, _preprocess_argv

    parser, _ = _get_parser()
    parser.parse_args(_preprocess_argv(["optuna", *words]))


def mlflow_parsed(words: list[str]) -> None:
    from mlflow.cli import cli as mlflow_cli

    parsed(mlflow_cli, words)


@pytest.mark.parametrize("printed", PRINTED, ids=lambda p: f"{p.file}: {p.command}")
def test_a_printed_command_parses_with_the_most_awkward_values(printed: Printed) -> None:
    program, *words = filled(printed)
    match Path(program).name:
        case "cyclegan":
            parsed(typer.main.get_command(cli.app), words, mention=printed.mention)
        case "mlflow":
            mlflow_parsed(words)
        case "optuna":
            optuna_parsed(words)
        case "pip":
            pip_parsed(words)
        case "make":
            assert words[0] in TARGETS
        case "silx" if printed.mention:
            assert words == ["view"]
        case "h5clear" | "silx" | "python" | "unzip":
            # The value is one word, and no option.
            assert str(shlex.split(AWKWARD)[0]) in words
            assert not any(word.startswith("-it") for word in words)
        case _:
            pytest.fail(f"no check for {program}")


@pytest.mark.parametrize("name", ["shell", "file"])
def test_a_value_called_so_is_quoted(name: str) -> None:
    for file in {p.file for p in PRINTED if f"{{{name}}}" in p.command}:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *{name} = shell_word\(", text, re.MULTILINE), file


@pytest.mark.parametrize("name", ["a b", "a'b", "$a", "-a", "a;b", "a`b", "a/b", "a\nb", "~a"])
def test_no_name_of_a_study_needs_quotes(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RunName).validate_python(name)


# -- Situations, and what the printed command does there ----------------------------------------


@pytest.fixture
def paste(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a line of a shell in this process; it must succeed."""

    def call(line: str) -> None:
        words = shlex.split(line)
        with monkeypatch.context() as patch:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            patch.setattr(sys, "argv", words)
            if words[0] == "cyclegan":
                assert run(cli.app) == 0
            elif words[0] == "mlflow":
                from mlflow.cli import cli as mlflow_cli

                mlflow_cli.main(words[1:], standalone_mode=False)
            else:
                from optuna.cli import main

                assert words[0] == "optuna"
                assert main() == 0

    return call


def behind(marker: str, error: BaseException | str) -> str:
    """Return the command that follows a marker in a message."""
    _, found, command = str(error).partition(marker)
    assert found, error
    return command


def test_a_deleted_run_and_a_deleted_experiment_come_back(
    store: Store, paste: Callable[[str], None]
) -> None:
    made = store.create_run("e", "r", kind="train", params={}, tags={})
    store.client.delete_run(made.id)
    with pytest.raises(CycleGANError) as caught:
        store.open_run(made.id)
    paste(behind("bring it back: ", caught.value))
    store.open_run(made.id)
    experiment = store.find_experiment("e").id
    store.client.delete_experiment(experiment)
    with pytest.raises(CycleGANError) as caught:
        store.experiment("e")
    paste(behind("bring it back: ", caught.value))
    assert store.experiment("e") == experiment


@pytest.mark.slow
def test_tables_of_an_older_mlflow_are_upgraded(
    tmp_path: Path, paste: Callable[[str], None]
) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    folder = tmp_path / "it's 50% ?"
    folder.mkdir()
    plain = tmp_path / "plain.db"
    engine = create_engine(f"sqlite:///{plain}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{plain}")
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_revision(scripts.get_current_head())
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, str(newest.down_revision))
    engine.dispose()
    plain.rename(folder / "m.db")
    address = f"sqlite:///{folder}/m.db".replace("%", "%25").replace("?", "%3F")
    with pytest.raises(CycleGANError, match="older MLflow") as caught:
        Store.open(address)
    paste(behind("then run: ", caught.value))
    Store.open(address).create_run("e", "r", kind="train", params={}, tags={})


@pytest.mark.slow
def test_tables_of_an_older_optuna_are_upgraded(
    tmp_path: Path, paste: Callable[[str], None]
) -> None:
    import optuna

    (tmp_path / "it's").mkdir()
    address = f"sqlite:///{tmp_path}/it's/s.db"
    storage = optuna.storages.RDBStorage(address)
    optuna.create_study(study_name="s", storage=storage)
    storage.engine.dispose()
    with sqlite3.connect(f"{tmp_path}/it's/s.db") as connection:  # what v3.2.0.a added
        connection.execute("DROP INDEX ix_trials_study_id")
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    place = storage_for(tmp_path / "study", address)
    with pytest.raises(CycleGANError, match="older Optuna") as caught:
        place.open()
    paste(behind("then run: ", caught.value))
    studies = storage_for(tmp_path / "study", address).open().get_all_studies()
    assert [study.study_name for study in studies] == ["s"]


def test_volume_txt_opens_the_volume_and_copies_it(
    enhance: Any, make_blobs: Callable[..., np.ndarray], paste: Callable[[str], None]
) -> None:
    with h5py.File("v.h5", "w") as file:
        file["data"] = make_blobs(5, 0.8, (16, 16, 16))
    output = "-it's $HOME; `x`.h5"
    code, data, err = enhance("v.h5", f"--output={output}", "--no-report", "--no-trust")
    assert code == 0, err
    store = Store.open()
    own = store.run(data["run_id"])
    lines = own.artifact_path("volume.txt").read_text(encoding="utf-8").splitlines()
    (viewer,) = (line for line in lines if " viewer " in line)
    (copy,) = (line for line in lines if "log-artifact" in line)
    paste(viewer.strip())
    assert Path("-it's $HOME; `x`.viewer.html").is_file()
    paste(copy.strip())
    assert own.artifact_path(f"volume/{output}").read_bytes() == Path(output).read_bytes()


def test_the_best_configuration_trains_by_the_command_in_it(
    written: Callable[..., StudyHandle], command_line: Any, paste: Callable[[str], None]
) -> None:
    written([1.0, 2.0])
    Path("sub folder").mkdir()
    code, _, err = command_line("study", "best", "s", "--config", "sub folder/it's best.yaml")
    assert code == 0, err
    text = Path("sub folder/it's best.yaml").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if "cyclegan train" in line)
    paste(line.removeprefix("#").strip())
    assert Path("results", yaml.safe_load(text)["run_name"], "save", "generator.pt").is_file()


def test_a_study_without_a_complete_trial_continues_by_its_command(
    written: Callable[..., StudyHandle], paste: Callable[[str], None]
) -> None:
    handle = written([], trials=1)
    with pytest.raises(CycleGANError) as caught:
        handle.best()
    paste(behind("continue with: ", caught.value))
    assert [t.state for t in open_study("s").trials()] in (["complete"], ["pruned"])


def test_deleted_runs_go_for_good_by_the_command_below_the_list(
    store: Store,
    paste: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = store.create_run("e", "r", kind="train", params={}, tags={})
    made.finish("FINISHED")
    store.client.delete_run(made.id)
    paste("cyclegan runs list")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    last = capsys.readouterr().out.splitlines()[-1]
    paste(last[last.index("cyclegan ") :])
    assert "deleted 1 run" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_the_recipe_comes_out_of_an_exported_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("-it's $1.pt2")
    with zipfile.ZipFile(tmp_path / path, "w") as archive:
        archive.writestr("x/extra/recipe.py", "import sys; print(sys.argv[1:])")
    image = {"domain": "A", "axes": ["Z"], "shape": [1], "dtype": "float32"}
    about: dict[str, Any] = {"input": image, "output": image, "scale": 1, "alignment": 2}
    about |= {"halo_left": 0, "halo_right": 0}
    monkeypatch.chdir(tmp_path)
    text = output_of(ExportResult(path=path, about=about, seconds=1.0)).text
    line = text.splitlines()[-1].removeprefix("use it").strip()
    way = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "PATH": way},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str([f"./{path}", "IN.h5", "OUT.h5"])


def test_a_missing_demo_volume_is_installed_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "FILE_NAME", "none.tif")
    with pytest.raises(CycleGANError) as caught:
        real.real_volume_path()
    command = behind("run `", caught.value).rstrip("`")
    pip_parsed(shlex.split(command)[1:])
    assert command.endswith("--force-reinstall")
