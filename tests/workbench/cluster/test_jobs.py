"""The jobs of a study, as its folder, squeue and sacct tell of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.cluster import jobs


@pytest.mark.parametrize(
    ("program", "state"),
    [
        ("echo 'CANCELLED by 1000'; echo COMPLETED", "cancelled"),
        ("echo TIMEOUT", "timeout"),
        ("", ""),  # the accounts do not know it
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", ""),
    ],
)
def test_of_a_job_that_noted_no_end_the_accounts_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, state: str
) -> None:
    """As sacct of SLURM 22.05 answers with and without accounts."""
    sacct = tmp_path / "sacct"
    sacct.write_text(f"#!/bin/sh\n{program}\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert jobs._accounted("7") == state
    assert jobs._ended("7", {}, "log").state == (state or "ended")
    assert jobs._ended("7", {"host": "n1"}, "log").state == (state or "lost")
    assert jobs._ended("7", {"ended": "done"}, "log").state == "done"
