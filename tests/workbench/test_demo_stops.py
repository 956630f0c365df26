"""A signal to the demo alone stops its stage, too: it writes its checkpoint and is waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.checkpoints import newest_checkpoint
from tracking import Store
from tracking.process import is_alive

_STAGE = """
import os, signal, sys, time
from pathlib import Path

def stop(number, frame):
    time.sleep(0.3)
    with Path("stopped").open("a") as file:
        file.write(f"{number}\\n")
    sys.exit(130)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
Path("pid.part").write_text(str(os.getpid()))
Path("pid.part").rename("pid")
time.sleep(60)
"""
"""A stage that takes a moment to stop, and notes each signal that it gets."""

_DEMO = """
import sys
from workbench import demo
demo._line = lambda arguments: [sys.executable, "-c", sys.argv[1]]
sys.exit(demo.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_demo_alone_stops_its_stage_and_is_waited_for(
    tmp_path: Path, wait: Any, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _DEMO, _STAGE], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait(lambda: (tmp_path / "pid").exists() or process.poll() is not None)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (tmp_path / "stopped").read_text() == f"{number.value}\n"  # once
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
    assert "run it again to continue" in said
    assert "2 of 4" not in said  # no further stage began


@pytest.mark.slow
def test_an_interrupted_demo_leaves_a_checkpoint_and_no_run_in_progress(
    study_project: Any, small: dict[str, Any], wait: Any
) -> None:
    folder = study_project.folder
    endless = small | {"name": "demo", "steps": 100_000, "trials": 1, "report_every": 50_000}
    endless["promote"] = {"start": "scratch"}
    (folder / "studies" / "demo.yaml").write_text(yaml.safe_dump(endless))
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.demo"], cwd=folder, env=environment
    )
    save = folder / "results" / "demo" / "trial-000" / "save"
    wait(lambda: newest_checkpoint(save) or process.poll() is not None, 300)
    store = Store.open(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    (run,) = store.search("demo", "tags.kind = 'trial'")
    assert is_alive(run.tags["process"])
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert not is_alive(run.tags["process"])
    record = json.loads((save.parent / "run.json").read_text())
    assert record["result"]["outcome"] == "interrupted"
    assert newest_checkpoint(save) is not None
    assert {r.status for r in store.search("demo")} == {"KILLED"}
