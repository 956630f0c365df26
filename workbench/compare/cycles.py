"""Comparison of the images that trainings made of their fixed validation patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.errors import DataError
from cyclegan.metrics.agreement import Blocks, differences, mean_power, same_images
from tracking.cycle_volumes import read_stored, stored_iterations
from tracking.views import CYCLE_PICTURES
from viz.pictures import Picture, cut_six, difference_picture, six_images
from viz.viewer import Layer
from workbench.compare.result import (
    ComparedImages,
    Pair,
    PairAgreement,
    Shown,
    agreements,
    cubic,
    groups,
    largest_shown,
    names_of_runs,
    spectra,
)
from workbench.compare.runs import ComparedRun, judged_iteration

At = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class _Volumes:
    """One run's images of all validation patches, first channel only, (B, Z, Y, X)."""

    iteration: int
    real_A: Blocks
    fake_B: Blocks
    real_B: Blocks
    voxel_size_A: VoxelSize | None
    picture: Picture


def compare_cycles(runs: Sequence[ComparedRun], at: At, *, pictures: bool) -> ComparedImages:
    """Compare the images of the best or the last validation whose volumes each run has stored.

    Only runs that translate the same patch to the same resolution are measured against each other.
    `pictures` adds slices, differences and layers for a page.
    """
    remarks: list[str] = []
    volumes = {}
    for run in runs:
        try:
            found = _volumes(run, at)
        except DataError as error:
            remarks.append(str(error))
            continue
        if found is None:
            remarks.append(f"run {run.number}: its images are not stored as volumes")
        else:
            volumes[run.number] = found
    first = same_images(volume.real_A for volume in volumes.values())
    keys = {
        number: (place, volume.fake_B.shape)
        for (number, volume), place in zip(volumes.items(), first, strict=True)
    }
    grouped = list(groups(keys))
    if len(grouped) > 1:
        parts = "; ".join(names_of_runs(group) for group in grouped)
        remarks.append(
            f"the inputs (real_A) or resolutions differ: {parts}; "
            f"only images of {names_of_runs(grouped[0])} are compared"
        )
    numbers = grouped[0] if grouped else []
    shown = _shown(runs, volumes, at) if pictures else {}
    if not numbers:
        return ComparedImages(what="fake_B", shown=shown, remarks=tuple(remarks))
    return _measured(volumes, numbers, shown, remarks, runs if pictures else ())


def _volumes(run: ComparedRun, at: At) -> _Volumes | None:
    if run.is_enhancement:
        return None
    kept = stored_iterations(run.run)
    if not kept:
        return None
    iteration = chosen(list(kept), run.curve, at)
    cycle = read_stored(run.run, iteration, kept[iteration])
    tensors = {name: torch.from_numpy(image) for name, image in cycle.images.items()}
    return _Volumes(
        iteration=iteration,
        real_A=cycle.images["real_A"][:, 0].copy(),
        fake_B=cycle.images["fake_B"][:, 0].copy(),
        real_B=cycle.images["real_B"][:, 0].copy(),
        voxel_size_A=cycle.voxel_size_A,
        picture=six_images(tensors),
    )


def chosen(kept: Sequence[int], curve: Mapping[int, float], at: At) -> int:
    """Return the last of the stored iterations, or the one with the best usable score."""
    scores = {iteration: curve[iteration] for iteration in kept if iteration in curve}
    best = judged_iteration(scores) if at == "best" else None
    return max(kept) if best is None else best


def _measured(
    volumes: Mapping[int, _Volumes],
    numbers: Sequence[int],
    shown: Mapping[int, Shown],
    remarks: list[str],
    runs: Sequence[ComparedRun],
) -> ComparedImages:
    first = volumes[numbers[0]]
    blocks = {number: volumes[number].fake_B for number in numbers}
    pairs: dict[Pair, PairAgreement] = {}
    if len(numbers) > 1:
        try:
            pairs = agreements(numbers, blocks, differences(list(blocks.values())))
        except DataError as error:
            remarks.append(str(error))
    references = {"real_B": mean_power(first.real_B)}
    if first.real_A.shape == first.fake_B.shape:
        references["real_A"] = mean_power(first.real_A)
    size = first.voxel_size_A
    fine = None
    if size is not None:
        z, y, x = (
            s * a / b
            for s, a, b in zip(size, first.real_A.shape[1:], first.fake_B.shape[1:], strict=True)
        )
        fine = (z, y, x)
    limit = largest_shown(pairs.values())
    shape = " x ".join(map(str, first.fake_B.shape[1:]))
    return ComparedImages(
        what="fake_B",
        runs=tuple(numbers),
        iterations={number: volume.iteration for number, volume in volumes.items()},
        pairs=pairs,
        spectra=spectra(blocks),
        references={name: curve for name, curve in references.items() if curve is not None},
        shown=shown,
        differences=_differences(blocks, limit) if runs else {},
        layers=_layers(runs, volumes, numbers, size, fine) if runs else (),
        limit=limit,
        voxel_um=cubic(fine),
        region=f"{len(first.fake_B)} validation patches of {shape} voxels",
        remarks=tuple(remarks),
    )


def _differences(blocks: Mapping[int, Blocks], limit: float) -> dict[Pair, Picture]:
    """Return central xy slices of the first patch: each run less the first run."""
    (first, base), *others = blocks.items()
    middle = base.shape[1] // 2
    return {
        (first, number): difference_picture(base[0, middle], block[0, middle], limit)
        for number, block in others
    }


def _layers(
    runs: Sequence[ComparedRun],
    volumes: Mapping[int, _Volumes],
    numbers: Sequence[int],
    coarse: VoxelSize | None,
    fine: VoxelSize | None,
) -> tuple[Layer, ...]:
    names = {run.number: run.name for run in runs}
    base = volumes[numbers[0]].real_A[0]
    images = (
        Layer(name=names[n], data=volumes[n].fake_B[0], voxel_size=fine, domain="B")
        for n in numbers
    )
    return (*images, Layer(name="real_A", data=base, voxel_size=coarse, domain="A"))


def _shown(
    runs: Sequence[ComparedRun],
    volumes: Mapping[int, _Volumes],
    at: At,
) -> dict[int, Shown]:
    """Return slices of the volumes, or of the pictures in MLflow if a run has no volumes."""
    found: dict[int, Shown] = {}
    inputs: list[Picture] = []
    for run in runs:
        if run.number in volumes:
            iteration, picture = volumes[run.number].iteration, volumes[run.number].picture
        else:
            stored = _stored_picture(run, at)
            if stored is None:
                continue
            iteration, picture = stored
        slices = cut_six(picture)
        inputs.append(slices["real_A"])
        score = run.curve.get(iteration)
        told = "" if score is None else f", score {score:.2f}"
        found[run.number] = Shown(
            slices=slices,
            caption=f"iteration {iteration:,}{told}",
            whole=picture,
            same_input=np.array_equal(inputs[0], inputs[-1]),
        )
    return found


def _stored_picture(run: ComparedRun, at: At) -> tuple[int, Picture] | None:
    steps = sorted(run.run.image_steps(CYCLE_PICTURES))
    if not steps:
        return None
    iteration = chosen(steps, run.curve, at)
    picture = run.run.image(CYCLE_PICTURES, iteration)
    return None if picture is None else (iteration, picture)
