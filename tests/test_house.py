"""The layers: which package may import which; lock, environment and project agree."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
FLOORS = ("workbench", "search", "tracking", "viz", "cyclegan")
"""Packages from the top down; each may import those below it."""
OWNERS = {
    "mlflow": "tracking",
    "optuna": "search",
    "typer": "workbench",
    "submitit": "workbench",
}
"""The only package of this project that may import each of these libraries."""
LOCKING = {"fcntl", "filelock", "msvcrt"}
"""Modules that lock files: only `cyclegan/locks.py` may use any."""


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_only_point_down(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    above = set(FLOORS[: FLOORS.index(floor)])
    for path in files:
        found = imports(path)
        assert not found & above, path
        for package, owner in OWNERS.items():
            assert package not in found or floor == owner, f"{path} imports {package}"
        assert not found & LOCKING or path == ROOT / "cyclegan" / "locks.py", path


def test_the_core_draws_nothing() -> None:
    for path in (ROOT / "cyclegan").rglob("*.py"):
        assert not imports(path) & {"matplotlib", "PIL", "jinja2", "rich", "html"}, path


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [re.match(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines]
    return {pin[1].lower().replace("_", "-"): Version(pin[2]) for pin in pins if pin}


def test_lock_satisfies_every_dependency_and_holds_no_local_trace() -> None:
    table = project()["project"]
    wanted = [*table["dependencies"], *table["optional-dependencies"]["dev"]]
    pins = locked()
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text
    assert pins["torch"] == Version("2.13.0")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"file:/|https?:|--index|--find-links|\+cpu", text)


def test_what_is_installed_is_what_is_locked() -> None:
    for name in ("mlflow", "optuna", "numpy", "h5py", "pydantic", "typer"):
        assert Version(version(name)) == locked()[name]


def test_environment_yml_agrees_with_the_project() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    python = next(item for item in conda if item.startswith("python="))
    table = project()["project"]
    assert Requirement(f"python{table['requires-python']}").specifier.contains(
        python.removeprefix("python=")
    )
    pins = {
        Requirement(text).name.lower(): Requirement(text).specifier
        for text in pip
        if not text.startswith("-")
    }
    direct = {Requirement(text).name.lower() for text in table["dependencies"]}
    assert set(pins) == direct
    for name, specifier in pins.items():
        assert str(specifier) == f"=={locked()[name]}", name
    assert "-e ." in pip


def test_demo_data_is_pinned_exactly() -> None:
    (text,) = project()["dependency-groups"]["demo-data"]
    assert text == "qim3d==1.5.3"


def test_no_absolute_path_is_committed() -> None:
    pattern = re.compile(r"/(?:work|root|home|opt)/[a-z]")
    for room in (*FLOORS, "tests", "studies", "benchmarks", "docs"):
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".md", ".yaml") and "local" not in path.parts:
                assert not pattern.search(path.read_text(encoding="utf-8")), path
