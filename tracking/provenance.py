"""Provenance of a run as tags: data, code, versions and machine."""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib.metadata
import logging
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from cyclegan.config import Config
from cyclegan.data.fingerprint import combined, fingerprint
from cyclegan.errors import DataError
from tracking.database import project_root
from tracking.run import DatasetInput
from viz import units

log = logging.getLogger(__name__)

_PACKAGES = ("cyclegan3d", "torch", "numpy", "optuna", "mlflow")


def provenance(config: Config, device: torch.device) -> dict[str, str]:
    """Return the tags `data_A`, `data_B`, `data_hash.A`, `data_hash.B`, `lock_sha256`, `host`,
    `device`, `version.<package>` and, from a git checkout, `mlflow.source.git.commit` with
    `git.modified` = `yes` if files differ from that commit.
    """
    tags = {
        "data_A": str(Path(config.data_A).resolve()),
        "data_B": str(Path(config.data_B).resolve()),
    }
    return tags | machine_tags(device) | _data_hashes(config)


def machine_tags(device: torch.device) -> dict[str, str]:
    """Return the tags of machine, versions and commit: those of `provenance` without the data."""
    tags = {
        "host": platform.node(),
        "device": _device_name(device),
        "mlflow.user": _user(),
    }
    tags |= {f"version.{name}": version for name, version in versions().items()}
    lock = lock_sha256()
    if lock:
        tags["lock_sha256"] = lock
    return tags | _commit_tags()


def data_hashes(config: Config) -> dict[str, dict[str, str]]:
    """Return for each domain, `A` and `B`, the hash of every file of its dataset by path.

    Hashes of large files are cached in `studies/local/fingerprints.json`.

    Errors: `DataError` for files that are missing or damaged.
    """
    datasets = {"A": Path(config.data_A), "B": Path(config.data_B)}
    return {domain: fingerprint(path, cache=hash_cache()) for domain, path in datasets.items()}


def hash_cache() -> Path | None:
    """Return the file that caches hashes of large files; None outside of a project."""
    studies = project_root() / "studies"
    return studies / "local" / "fingerprints.json" if studies.is_dir() else None


def data_inputs(config: Config, tags: Mapping[str, str]) -> tuple[DatasetInput, ...]:
    """Return both domains' datasets for MLflow; `tags` come from `provenance`."""
    return tuple(
        DatasetInput(
            name=f"{domain}: {Path(path).stem}",
            digest=digest,
            source=str(Path(path).resolve()),
            context=f"domain {domain}",
            profile={"patch": list(size), "channels": channels},
        )
        for domain, path, size, channels in (
            ("A", config.data_A, config.imsize_A, config.channels_A),
            ("B", config.data_B, config.imsize_B, config.channels_B),
        )
        if (digest := tags.get(f"data_hash.{domain}"))
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {package: _version(package) for package in _PACKAGES}
    return {"python": platform.python_version()} | {p: v for p, v in found.items() if v}


@functools.cache
def lock_sha256() -> str | None:
    """Return the hash of `requirements.lock` beside these rooms; None if it is missing."""
    try:
        content = (Path(__file__).parents[1] / "requirements.lock").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()


def git_state() -> tuple[str, bool] | None:
    """Return the commit these files were checked out from, and True if some differ from it.

    None if they are not in a git checkout.
    """
    folder = Path(__file__).parent
    # Only if git tracks this very file: the package may be installed in somebody else's checkout.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no", ":/"))


def _data_hashes(config: Config) -> dict[str, str]:
    try:
        found = data_hashes(config)
    except DataError as error:  # the training has its data; a missing tag must not end it
        log.warning("the data's hashes are not recorded: %s", error)
        return {}
    return {f"data_hash.{domain}": combined(hashes) for domain, hashes in found.items()}


def _commit_tags() -> dict[str, str]:
    state = git_state()
    if state is None:
        return {}
    commit, modified = state
    return {"mlflow.source.git.commit": commit, "git.modified": "yes" if modified else "no"}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {units.count(torch.get_num_threads(), 'thread')}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
