"""A finished study, its promoted training and an enhanced volume in MLflow's own user interface.

The command line makes everything and `cyclegan ui` serves it, just as for a user. With
CYCLEGAN_SCREENSHOTS set to a folder, the tests leave pictures of their pages there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tracking import Store
from tracking.views import run_link

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WAIT_MS = 60_000
"""Time limit of a page: two cores may be busy with other tests."""


@dataclass
class Project:
    """The project's results, and the addresses of its pages."""

    folder: Path
    address: str
    links: dict[str, str]
    """Addresses that `cyclegan ui` prints, by experiment and view."""
    study: dict[str, Any]
    """Result of `study show --json`."""
    store: Store

    def run_page(self, name: str, tab: str = "") -> str:
        """Return the address of a run's page, or of one of its tabs."""
        run = self.store.find_run(name)
        page, query = run_link(self.address, run.experiment_id, run.id).split("?")
        return f"{page}{tab and '/'}{tab}?{query}"


@dataclass
class Visitor:
    """A browser on its first visit. It collects the exceptions of the pages that it opens."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def open(self, address: str) -> Page:
        """Go to a page, and wait for nothing but the page itself."""
        self.page.goto("about:blank")  # otherwise another place on the same page is no new page
        self.page.goto(address)
        return self.page

    def show(self, name: str) -> None:
        """Leave a picture of the current page, if requested."""
        folder = os.environ.get("CYCLEGAN_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def command(folder: Path, *arguments: str) -> str:
    """Return the standard output of a command that must succeed."""
    line = [sys.executable, "-m", "workbench.cli", *arguments, "--json", "--quiet"]
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any], datasets: tuple[Path, Path]
) -> Path:
    """The project's folder with all results."""
    folder = tmp_path_factory.mktemp("interface")
    for name in ("studies", "mlruns"):
        (folder / name).mkdir()
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(small))
    fast, slow = (str(path.with_name(f"{path.stem}_validate.h5")) for path in datasets)
    command(folder, "study", "run", "studies/small.yaml")
    command(folder, "promote", "small")
    scan = ("--output", "enhanced.h5", "--reference", slow)
    command(folder, "enhance", fast, "--model", "small@champion", *scan)
    command(folder, "compare", "small:0", "small:1", "--html", "compared.html")
    return folder


@pytest.fixture(scope="session")
def project(made: Path) -> Iterator[Project]:
    """The same project, served by `cyclegan ui`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "workbench.cli", "ui", "--port", str(port)]
    server = subprocess.Popen(line, cwd=made, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said: list[str] = []
        while not said or "Ctrl-C" not in said[-1]:
            said.append(server.stdout.readline())
            assert said[-1], "the interface ended: " + "".join(said)
        links = dict(re.findall(r"^  (\S.*): (http\S+)$", "".join(said), re.MULTILINE))
        yield Project(
            folder=made,
            address=f"http://127.0.0.1:{port}",
            links=links,
            study=json.loads(command(made, "study", "show", "small")),
            store=Store.open(f"sqlite:///{made}/mlruns/mlflow.db"),
        )
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    visiting = Visitor(page)
    page.on("pageerror", lambda error: visiting.problems.append(str(error)))
    # Otherwise MLflow's assistant takes a third of the window at the first visit.
    seen = "localStorage['mlflow.assistant.fab.autoOpenedOnFirstLoad_v1'] = 'true'"
    page.add_init_script(f"try {{ {seen} }} catch {{ /* a frame without storage */ }}")
    yield visiting
    context.close()
    assert visiting.problems == []
