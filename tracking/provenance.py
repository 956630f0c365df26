"""Where a run comes from: data, code, versions and machine, as tags."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from cyclegan.config import Config

_PACKAGES = ("cyclegan3d", "torch", "numpy", "optuna", "mlflow")


def provenance(config: Config, device: torch.device) -> dict[str, str]:
    """Tags `data_A`, `data_B`, `host`, `device`, `version.<package>` and, from a git checkout,
    `mlflow.source.git.commit` with `git.modified` = `yes` if files differ from that commit.
    """
    tags = {
        "data_A": str(Path(config.data_A).resolve()),
        "data_B": str(Path(config.data_B).resolve()),
        "host": platform.node(),
        "device": _device_name(device),
        "version.python": platform.python_version(),
        "mlflow.user": _user(),
    }
    for package in _PACKAGES:
        version = _version(package)
        if version:
            tags[f"version.{package}"] = version
    return tags | _commit(Path(__file__).parent)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> dict[str, str]:
    # Only if this very file is tracked: the package may lie installed in somebody's own checkout.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    modified = _git(folder, "status", "--porcelain", "--untracked-files=no", ":/")
    return {"mlflow.source.git.commit": commit, "git.modified": "yes" if modified else "no"}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
