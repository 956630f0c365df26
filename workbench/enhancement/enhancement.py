"""One enhancement as a value, and its record: tags, parameters, metrics, and all of it as JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cyclegan.data import Volume, VolumeEntry
from cyclegan.data.files_behind import files_behind
from cyclegan.data.fingerprint import combined, file_hashes
from cyclegan.enhance import EnhanceResult
from cyclegan.enhance.grid import TileOperator
from cyclegan.errors import DataError
from search.models import Model, origin_of
from tracking.provenance import hash_cache, machine_tags
from tracking.run import DatasetInput
from workbench.enhancement.judging import JudgeResult
from workbench.enhancement.request import EnhanceRequest, Target

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""In place of a hash that could not be made."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A volume that is read, and what it is read as."""

    role: str
    """`input`, `reference`, `half 1` or `half 2`."""
    path: Path
    hashes: Mapping[str, str]
    """Hash by file, of every file that its voxels come from, the one at `path` first."""

    @property
    def hash(self) -> str:
        """The file's own, as `sha256sum` shows it; of several files one for all."""
        values = list(self.hashes.values())
        return values[0] if len(values) == 1 else f"combined:{combined(self.hashes)}"


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """One enhancement: what was asked for, of which model and volume, computed how."""

    request: EnhanceRequest
    target: Target
    model: Model
    operator: TileOperator
    device: torch.device
    volume: Volume
    """The input, or the first frame of a series."""

    @cached_property
    def inputs(self) -> tuple[InputFile, ...]:
        """The volumes read, with their hashes."""
        request = self.request
        named = [("input", self.target.volume)]
        named += [("reference", request.reference)] if request.reference else []
        named += [(f"half {n}", path) for n, path in enumerate(request.halves, start=1)]
        return tuple(
            InputFile(
                role=role, path=path.resolve(), hashes=_hashes(path.resolve(), request.dataset)
            )
            for role, path in named
        )

    @cached_property
    def model_hash(self) -> str:
        """Hash of the generator's file."""
        return next(iter(_file_hashes([self.model.file]).values()))

    @property
    def output(self) -> Path:
        """Absolute path of the result."""
        return self.target.output.resolve()

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the result depends on beside input and model, and how it is computed."""
        request, operator = self.request, self.operator
        network = getattr(operator, "G_A", operator)
        return {
            "dataset": request.dataset,
            "series": request.series,
            "no_data": "" if request.no_data is None else request.no_data,
            **({"fill_missing": True} if request.fill_missing else {}),
            "roi": list(request.roi or ()),
            "direction": "A -> B",
            "factor": str(operator.outputs["data"]),
            "halo": [operator.halo_left, operator.halo_right],
            "alignment": operator.alignment,
            "precision": getattr(network, "precision", "fp32"),
            "units": request.units,
            "trust": [name for name in operator.outputs if name != "data"],
            "other_models": list(request.other_models),
            "compression": request.compression,
            "memory_gb": request.memory_gb or "",
        }

    @property
    def identity(self) -> str:
        """The same for a call that goes on with this enhancement, another one for any other."""
        content = [
            str(self.output),
            [file.hash for file in self.inputs],
            [str(file.path) for file in self.inputs],
            self.model_hash,
            {name: value for name, value in self.settings.items() if name != "memory_gb"},
            self.request.tile,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    @property
    def origin(self) -> dict[str, str]:
        """Origin of the model, such as its study and trial, as far as it is known."""
        model = self.model
        known = {
            name: model.tags[name] for name in ("kind", "study", "trial") if name in model.tags
        }
        return known | origin_of(model.run_id, model.version)

    @property
    def grey_scale(self) -> dict[str, Any]:
        """Mean and standard deviation that were taken off the input, and where they are from."""
        volume = self.volume
        return {
            "mean": volume.mean,
            "std": volume.std,
            "measured_on": list(volume.scan.regions),
            "measured_mean": volume.scan.statistics.mean,
            "measured_std": volume.scan.statistics.std,
            "trained_on": volume.scan in self.model.generator.scans.get("A", ()),
        }

    def attributes(self) -> dict[str, str]:
        """For the volume itself: it can be told later whether input and model are still those."""
        own = next(iter(self.inputs[0].hashes.values()))
        return {"source_hash": own, "model_hash": self.model_hash}

    def params(self) -> dict[str, Any]:
        """Parameters of the run; the tile is chosen later."""
        files = {file.role: str(file.path) for file in self.inputs}
        return {
            "volume": files.pop("input"),
            "reference": files.pop("reference", ""),
            "halves": list(files.values()),
            "output": str(self.output),
            "model": self.request.model,
            **self.settings,
        }

    def tags(self) -> dict[str, str]:
        """Tags of the run. Those of the model's origin begin with `model_`."""
        # A tag `trial` would put the run into the table of what trials became.
        origin = {f"model_{name}": text for name, text in self.origin.items()}
        generator = self.model.generator
        return {
            **origin,
            "model_run": self.model.run_id or "",
            "model_version": self.model.label,
            "model_file": self.model.address,
            "model_hash": self.model_hash,
            "model_step": str(generator.step),
            "model_score": "" if generator.score is None else f"{generator.score:.6g}",
            **{f"{f.role.replace(' ', '_')}_hash": f.hash for f in self.inputs},
            "output": str(self.output),
            **machine_tags(self.device),
        }

    def datasets(self) -> tuple[DatasetInput, ...]:
        """The volumes read, for MLflow."""
        volume = self.volume
        profile = {
            "shape": list(volume.shape),
            "channels": volume.channels,
            "dtype": str(volume.dtype),
            "voxel_size_um": list(volume.voxel_size_um or ()),
            "mean": volume.statistics.mean,
            "std": volume.statistics.std,
        }
        return tuple(
            DatasetInput(
                name=file.path.stem,
                digest=combined(file.hashes),
                source=str(file.path),
                context=file.role,
                profile=profile if file.role == "input" else {},
            )
            for file in self.inputs
        )


def document(
    enhancement: Enhancement,
    done: EnhanceResult,
    judged: JudgeResult,
    volume: Mapping[str, Any],
    peak: int,
) -> dict[str, Any]:
    """All of a finished enhancement for other programs, plain data."""
    report = judged.report
    model = enhancement.model
    return {
        "inputs": [
            {"role": f.role, "path": str(f.path), "hash": f.hash, "files": dict(f.hashes)}
            for f in enhancement.inputs
        ],
        "model": {
            "asked": enhancement.request.model,
            "file": model.address,
            "hash": enhancement.model_hash,
            "step": model.generator.step,
            "score": model.generator.score,
            "run": model.run_id,
            "version": model.label or None,
            "origin": enhancement.origin,
            "network": model.generator.config.net_A,
            "filters": model.generator.config.filters,
        },
        "settings": enhancement.settings | {"tile": list(done.tile)},
        "grey_scale": enhancement.grey_scale,
        "volume": dict(volume),
        "tiles": {"all": done.tiles, "resumed": done.resumed},
        "seconds": done.seconds,
        "voxels_per_second": done.voxels_per_second,
        "peak_bytes": peak,
        "trust": [vars(summary) for summary in report.maps] if report else [],
        "doubtful_places": [vars(place) for place in report.places] if report else [],
        "resolution_voxels": dict(report.resolution_voxels) if report else {},
        "quality": [vars(row) for row in judged.rows],
        "verdict": judged.verdict,
        "machine": machine_tags(enhancement.device),
    }


def metrics(
    done: EnhanceResult, judged: JudgeResult, volume_bytes: int, peak: int
) -> dict[str, float]:
    """The numbers of a finished enhancement; times only if something was computed."""
    values = judged.metrics()
    values |= {
        f"{s.name}_highest": s.highest for s in (judged.report.maps if judged.report else ())
    }
    values |= {
        "tiles/all": done.tiles,
        "tiles/resumed": done.resumed,
        "volume/gb": volume_bytes / 1e9,
        "volume/voxels": math.prod(done.shape),
    }
    if done.resumed < done.tiles:
        values |= {
            "speed/voxels_per_s": done.voxels_per_second,
            "time/enhance_s": done.seconds,
            "memory/peak_gb": peak / 1e9,
        }
    return values


def output_hash(path: Path) -> str:
    """Return the hash of the enhanced volume, sampled if it is large; `UNKNOWN` if unreadable."""
    return next(iter(_file_hashes([path]).values()))


def _hashes(path: Path, dataset: str) -> dict[str, str]:
    try:
        return _file_hashes(files_behind(VolumeEntry(path=path, dset=dataset)))
    except DataError as error:
        log.warning("%s", error)
        return {str(path): UNKNOWN}


def _file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """A hash that can't be made is not worth the end of an enhancement."""
    try:
        return file_hashes(paths, cache=hash_cache())
    except DataError as error:
        log.warning("%s", error)
        return {str(path): UNKNOWN for path in paths}
