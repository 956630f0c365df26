"""Options of `--slurm`: times, refusals, and the batch script that they make."""

from __future__ import annotations

from typing import Any

import pytest

from cyclegan.errors import UsageError
from workbench.cluster.command import without_slurm
from workbench.cluster.options import PARAMETERS, SlurmOptions, minutes_of, options_from


def given(**values: Any) -> dict[str, Any]:
    return {name: default for name, (_, default) in PARAMETERS.items()} | values


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90m", 90),
        ("4h", 240),
        ("1.5h", 90),
        ("2d", 2880),
        ("0.5m", 1),
        ("2:30:00", 150),
        ("0:30", 1),  # minutes and seconds, as SLURM reads it
        ("1-12:00:00", 2160),
        ("1-12:00", 2160),
    ],
)
def test_times(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "4 h", "-4h", "4w", "0", "1-", "1:2"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        minutes_of(text)


def test_without_slurm_there_are_no_options() -> None:
    assert options_from(given(), several=True) is None
    with pytest.raises(UsageError, match="--partition says what a SLURM job gets: add --slurm"):
        options_from(given(partition="main"), several=True)
    with pytest.raises(UsageError, match="--dry-run says"):
        options_from(given(dry_run=True), several=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"time": "2m"}, "a job needs 120 seconds for its last checkpoint .* at least 3m"),
        ({"time": "1m", "grace": 30}, "at least 2m"),
        ({"mem": "much"}, "--mem much: not a size"),
        ({"jobs": 3}, "--jobs 3: a training is one job"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options_from(given(slurm=True, **values), several=False)


def test_a_job_has_one_gpu_unless_it_is_told_otherwise() -> None:
    assert options_from(given(slurm=True), several=False) == SlurmOptions(gpus=1)
    assert options_from(given(slurm=True, gpus=0), several=False) == SlurmOptions(gpus=0)


def test_the_command_of_a_job_is_the_one_given_without_the_options_of_slurm() -> None:
    words = ["train", "a.yaml", "--slurm", "--time", "4h", "--mem=2G", "--set", "x=1", "--dry-run"]
    words += ["--setup", "module load cuda", "--setup=source a", "--jobs", "1", "--quiet"]
    assert without_slurm(words) == ["train", "a.yaml", "--set", "x=1", "--quiet"]
