"""Absurd values for every option and argument of every command: taken, or refused in one line.

The options come from the command line itself, so a new one is tested without being named here. A
refused command leaves no file and no folder behind, and changes none.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
import typer
import yaml
from optuna.trial import TrialState
from written_studies import write_study

from cyclegan import parse_config
from cyclegan.generator import save_generators
from cyclegan.model import CycleGAN
from search.study.runner import StudyResult
from tracking import Store
from workbench import cli
from workbench.session import run

LONGEST = 1010
"""Most characters of an error's line."""
SECONDS = 120
"""A call that takes longer hangs, or computes what it should have refused."""

ABSURD = [
    *("", " ", "x" * 300, "y" * 5000, "a\x01\x1b[31mb", "one\ntwo", "²", "'\"$(x) `y`;*", "\udcff"),
    *("nan", "inf", "-1", "0", "1e300", str(2**70), "1_0", "auto"),
    *("2,,3", "²,8,8", "0,0,0", "1:0", "3x0", "{a: [}", "a=b=c", "steps=²", "--nonsense"),
    *("..", "/", "folder", "text.txt", "loop", "text.txt/below", "none/at/all.h5", "volume.h5"),
]
"""Values of all kinds, of which an option takes a few at most."""
ADDRESSES = [
    *("sqlite:///text.txt", "sqlite:///folder", "sqlite:///text.txt/m.db", "sqlite://", "x://y"),
    *("http://", "http://[", "http://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "file:///x"),
]
"""Values of options that take the address of a store or database, besides."""

QUICK_EVERY = 11
"""The quick test takes every eleventh case; `make nightly` takes all."""

Words = tuple[str, ...]


def commands() -> dict[Words, Any]:
    """Return every command of the command line, by its words."""

    def below(group: Any, words: Words) -> Iterator[tuple[Words, Any]]:
        for name, found in group.commands.items():
            if hasattr(found, "commands"):
                yield from below(found, (*words, name))
            else:
                yield (*words, name), found

    return dict(below(typer.main.get_command(cli.app), ()))


COMMANDS = commands()
VALID: dict[Words, list[str]] = {
    ("simulate",): ["out"],
    ("prepare",): ["volume.h5", "--output", "out.h5"],
    ("train",): ["config.yaml"],
    ("promote",): ["s"],
    ("enhance",): [
        *("volume.h5", "--model", "generator.pt", "--output", "out.h5"),
        *("--no-report", "--no-trust"),
    ],
    ("viewer",): ["enhanced.h5"],
    ("export",): ["generator.pt", "--output", "out.pt2"],
    ("compare",): ["s:0", "s:1"],
    ("ui",): [],
    ("doctor",): [],
    ("study", "run"): ["studies/s.yaml"],
    ("study", "validate"): ["studies/s.yaml", "--no-probe"],
    ("study", "list"): [],
    ("study", "show"): ["s"],
    ("study", "best"): ["s"],
    ("study", "export"): ["s", "--output", "out.csv"],
    ("study", "importance"): ["s"],
    ("study", "figures"): ["s"],
    ("study", "report"): ["s", "--output", "out.html"],
    ("study", "unprune"): ["s", "4"],
    ("study", "cancel"): ["s"],
    ("study", "serve"): ["--storage", "sqlite:///studies.db"],
    ("runs", "list"): [],
    ("runs", "gc"): ["--yes"],
    ("runs", "show"): ["s:0"],
}
"""Arguments and required options with which each command does its work, arguments first."""


class Case(NamedTuple):
    """A command line with one absurd value."""

    name: str
    """The option, or the argument."""
    value: str
    line: list[str]


def cases(command: Words) -> Iterator[Case]:
    """Yield a command line for every value of everything that `command` takes."""
    line = VALID[command]
    arguments = next((i for i, word in enumerate(line) if word.startswith("--")), len(line))
    position = 0
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "argument":
            place = min(position, arguments)
            rest = line[place + (place < arguments) :]
            for value in ABSURD:
                yield Case(parameter.name, value, [*line[:place], value, *rest])
            position += 1
        elif parameter.is_flag and parameter.name != "help":
            for name in (*parameter.opts, *parameter.secondary_opts):
                yield Case(name, "", [*line, name])
                yield Case(name, "²", [*line, f"{name}=²"])
        elif parameter.name != "help":
            (name,) = parameter.opts
            addresses = ADDRESSES if name in ("--tracking-uri", "--storage") else []
            for value in [*ABSURD, *addresses]:
                yield Case(name, value, with_option(line, name, value))
            for value in ("", "²"):
                yield Case(name, value, [*line, f"{name}={value}"])


def with_option(line: list[str], name: str, value: str) -> list[str]:
    if name not in line:
        return [*line, name, value]
    place = line.index(name) + 1
    return [*line[:place], value, *line[place + 1 :]]


class Answer(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


State = dict[str, tuple[int, int]]


class Project:
    """A project folder that can be put back as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.template = folder, folder.parent.with_name("template")

    def call(self, words: list[str]) -> Answer:
        """Run a command in this process, with streams as those of the interpreter."""
        out = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)  # as with LANG=C
        err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
        before = sys.argv, sys.stdout, sys.stderr
        sys.argv, sys.stdout, sys.stderr = ["cyclegan", *words], out, err
        try:
            code = run(cli.app)
        finally:
            sys.argv, sys.stdout, sys.stderr = before
        texts = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]
        return Answer(code, *texts)

    def state(self) -> State:
        """Return size and time of every file in the project and beside it; -1 of folders."""
        found = {}
        for path in self.folder.parent.rglob("*"):
            status = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            whole = (-1, 0) if is_folder else (status.st_size, status.st_mtime_ns)
            found[str(path.relative_to(self.folder.parent))] = whole
        return found

    def restore(self, before: State, now: State) -> None:
        """Put everything back but the store, whose database stays open."""
        for name in sorted(set(now) - set(before), reverse=True):
            path = self.folder.parent / name
            if "mlruns" not in path.parts:
                path.rmdir() if now[name][0] < 0 else path.unlink()
        for name, whole in before.items():
            if now.get(name) != whole and "mlruns" not in name.split("/"):
                source = self.template / Path(name).relative_to("project")
                (self.folder.parent / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, self.folder.parent / name, follow_symlinks=False)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: dict[str, Any],
    make_blobs: Callable[..., np.ndarray],
    fresh_database: Path,
) -> Iterator[Project]:
    """A project with a finished study, a generator and an enhanced volume, as working directory."""
    folder = tmp_path_factory.mktemp("fuzz") / "around" / "project"
    for name in ("studies", "mlruns", "folder"):
        (folder / name).mkdir(parents=True)
    shutil.copy(fresh_database, folder / "mlruns")
    with h5py.File(folder / "volume.h5", "w") as handle:
        handle["data"] = make_blobs(5, 0.8, (16, 16, 16))
    (folder / "text.txt").write_text("text\n")
    (folder / "loop").symlink_to("loop")
    small = tiny | {"steps": 1, "validate_every": 4, "checkpoint_every": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(small))
    study = {
        "name": "s",
        "config": small | {"run_name": "base"},
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "pruner": {"name": "none", "prune_after": 4},
        "trials": 5,
        "steps": 8,
        "report_every": 4,
        "promote": {"steps": 1, "start": "scratch"},
    }
    (folder / "studies" / "s.yaml").write_text(yaml.safe_dump(study))
    made, here = Project(folder), Path.cwd()
    os.chdir(folder)
    try:
        network = CycleGAN(parse_config(small), torch.device("cpu"))
        save_generators(network, folder / "generator.pt", step=1, grey_scales={})
        line = with_option(VALID["enhance",], "--output", "enhanced.h5")
        assert made.call(["enhance", *line]).code == 0
        pruned = write_study(Store.open(), folder / "studies" / "s.yaml", [1.0, 2.0, 3.0, 4.0])
        trial = pruned.study.ask()
        trial.suggest_float("lambdas.I_A", 3.0, 9.0)
        trial.set_user_attr("config", json.dumps(pruned.definition.config_of(4, {}).to_dict()))
        pruned.study.tell(trial, state=TrialState.PRUNED)
        save = pruned.trial_folder(4) / "save"
        save.mkdir(parents=True)
        (save / "checkpoint.pt").touch()
        store = shutil.ignore_patterns("mlruns")
        shutil.copytree(folder, made.template, symlinks=True, ignore=store)
        yield made
    finally:
        os.chdir(here)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the long work that follows when a value is taken: no option is read there."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # as Ctrl-C ends a server

    noise = np.random.default_rng(0).normal(size=(4, 200, 200)).astype(np.float32)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("tracking.ui._wait", stop)
    monkeypatch.setattr("search.study.proxy.make_server", stop)
    monkeypatch.setattr("workbench.dashboard.threading", SimpleNamespace(Event=stop, Thread=Thread))
    monkeypatch.setattr("cyclegan.portable.exporting._packed", lambda *_: b"")
    monkeypatch.setattr("cyclegan.portable.exporting._difference", lambda *_: 0.0)
    # Large enough for the margin that a scan loses.
    monkeypatch.setattr("cyclegan.simulate.domains._sample", lambda *_: (noise, "noise"))
    monkeypatch.setattr("cyclegan.simulate.domains.scan", lambda *_: noise[:, :8, :8])
    monkeypatch.setattr(
        "search.study.runner._run", lambda begun, **_: StudyResult(begun.handle, False)
    )
    # Whether a cluster is near must not matter.
    monkeypatch.setattr("workbench.cluster.submission.shutil.which", lambda _: None)
    monkeypatch.setattr("search.study.forecast.probe", lambda *_: None)
    monkeypatch.setattr("workbench.data.write_check_picture", lambda *_, **__: None)


def too_late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done after {SECONDS} seconds")


def names_it(case: Case, error: str) -> bool:
    """Return True if an error names the option, or its value as a message may show it."""
    is_flag = not case.value and case.line[-1] == case.name  # what it asks for can be impossible
    if is_flag or case.name in error or case.name.upper() in error or "the value after" in error:
        return True
    spaced, path = " ".join(case.value.split()), str(Path(case.value))
    forms = {case.value, repr(case.value)[1:-1], spaced, path, case.value.replace("_", "")}
    forms.add(case.value.removeprefix("sqlite:///"))
    if case.value.startswith("-"):
        forms.add(f"No such option: {case.value[:2]}")
    key, equals, _ = case.value.partition("=")
    if equals and key:
        forms.add(f" {key} ")
    return any(form[:20] in error for form in forms if form.strip())


def faults(case: Case, answer: Answer, changed: list[str]) -> Iterator[str]:
    """Yield what is wrong with a command's end."""
    if answer.code not in (0, 1, 2):
        yield f"exit code {answer.code}"
    if "Traceback" in answer.err.replace("--debug", "") and "--debug" not in case.line:
        yield "a traceback"
    if answer.code == 0:
        return
    *_, last = answer.err.splitlines() or [""]
    if not last.startswith("error: ") or answer.err.count("error: ") > 1:
        yield "not one line with the error, at the end"
    if "--debug shows where" in last:
        yield "an error that nobody has thought of"
    if len(last) > LONGEST or not last.isprintable():
        yield f"a line of {len(last)} characters, or with some that can't be shown"
    if not names_it(case, last):
        yield "neither option nor value named"
    if changed:
        yield f"left behind or changed: {changed}"


def test_every_command_is_tested_and_each_of_its_values_in_the_quick_test_too() -> None:
    assert set(VALID) == set(COMMANDS)
    for command in VALID:
        with_values = {case.name for case in cases(command) if case.value == "nan"}
        quick = {case.name for case in itertools.islice(cases(command), 0, None, QUICK_EVERY)}
        assert with_values <= quick


@pytest.mark.parametrize("every", [QUICK_EVERY, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("command", VALID, ids=" ".join)
def test_an_absurd_value_is_taken_or_refused_in_one_line(
    project: Project, quick: None, command: Words, every: int
) -> None:
    wrong = []
    before = project.state()
    handler = signal.signal(signal.SIGALRM, too_late)
    for case in itertools.islice(cases(command), 0, None, every):
        signal.alarm(SECONDS)
        try:
            answer = project.call([*command, *case.line])
        finally:
            signal.alarm(0)
        now = project.state()
        changed = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
        shown = [word[:60] for word in case.line]
        wrong += [
            f"{shown}: {fault}: {answer.err[-500:]}" for fault in faults(case, answer, changed)
        ]
        if changed:
            project.restore(before, now)
            before = project.state()
    signal.signal(signal.SIGALRM, handler)
    assert not wrong, "\n".join(["", *wrong])
