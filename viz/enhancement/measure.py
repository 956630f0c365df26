"""Measure the numbers of a report, on the middle of a volume and on blocks spread over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.data import Size, Volume
from cyclegan.errors import DataError
from cyclegan.metrics.correlation import (
    SHORTEST,
    ShellCorrelation,
    flat_places,
    fourier_shell_correlation,
    noise_power_of_flat_parts,
    noise_power_of_halves,
)
from cyclegan.metrics.quality import SSIM_WINDOW, QualityRow, compare_with_reference
from cyclegan.metrics.spectrum import radial_power
from viz.enhancement.reading import (
    DOUBT,
    DoubtfulPlace,
    Image,
    Images,
    MapSummary,
    central_region,
    doubtful_places,
    spread_blocks,
    summarise_map,
)

MEASURED = 160
"""Most voxels along each axis of the middle in which quality and correlation are measured."""
BLOCK_SIDE = 64
"""Longest side, in voxels, of the blocks whose spectra are averaged."""
BLOCKS = 8
FLAT_SIDE = 16
"""Side, in voxels, of the homogeneous blocks that show the noise."""
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Halves = Mapping[str, tuple[Volume, Volume]]
Pairs = Mapping[str, tuple[Image, Image, float]]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """All numbers of a report; those that could not be measured are empty, `remarks` say why."""

    maps: tuple[MapSummary, ...]
    places: tuple[DoubtfulPlace, ...]
    quality: tuple[QualityRow, ...]
    spectra: Mapping[str, Curve]
    """Frequencies in cycles per voxel of the enhanced volume, and power over the variance."""
    noise: Mapping[str, Curve]
    noise_source: str
    correlations: Mapping[str, tuple[ShellCorrelation, float]]
    """Each with the length of its volumes' voxels, in voxels of the enhanced volume."""
    histograms: Mapping[str, Curve]
    """Grey values and densities."""
    slope: float | None
    """Slope of the calibration; 0 or less: contrast inverted or lost."""
    remarks: tuple[str, ...]


def measure(
    images: Images, halves: Halves, quality: Sequence[QualityRow] | None = None
) -> Measurements:
    """Measure everything for which there is data."""
    remarks: list[str] = []
    middle = central_region(images.source.shape, max(MEASURED // images.factor, SHORTEST))
    source, output, truth = images.input(*middle), images.output(*middle), images.truth(*middle)
    if middle[1] != images.source.shape:
        remarks.append(
            f"quality, correlation and noise: measured on the middle {list(middle[1])} of "
            f"{list(images.source.shape)} voxels of the input"
        )
    pairs = {name: _pair_of_halves(pair, images, middle) for name, pair in halves.items()}
    noise, noise_source = _noise(source, output, images.factor, pairs, remarks)
    slope = images.maps[DOUBT].attrs.get("trust_slope") if DOUBT in images.maps else None
    maps = tuple(summarise_map(dataset) for dataset in images.maps.values())
    if any(summary.read < 0.99 for summary in maps):
        remarks.append(
            f"trust maps: summarised from a sample of {maps[0].read:.0%} of the volume; "
            "there may be more doubtful places than those listed"
        )
    return Measurements(
        maps=maps,
        places=tuple(doubtful_places(images.maps[DOUBT])) if DOUBT in images.maps else (),
        quality=tuple(quality or _quality(source, output, truth, remarks)),
        spectra=_spectra(images),
        noise=noise,
        noise_source=noise_source,
        correlations=_correlations(source, output, truth, images.factor, pairs, remarks),
        histograms={
            name: _histogram(image)
            for name, image in {"input": source, "enhanced": output, "reference": truth}.items()
            if image is not None
        },
        slope=None if slope is None else float(slope),
        remarks=tuple(remarks),
    )


def _quality(
    source: Image, output: Image, truth: Image | None, remarks: list[str]
) -> list[QualityRow]:
    if truth is None:
        return []
    if min(output.shape) < SSIM_WINDOW:
        remarks.append(f"quality: not measured, SSIM needs {SSIM_WINDOW} voxels along each axis")
        return []
    return compare_with_reference(output, source, truth)


def _spectra(images: Images) -> dict[str, Curve]:
    """Return mean radial power of blocks spread over the volumes, relative to their variances."""
    side = max(BLOCK_SIDE // images.factor, SHORTEST)
    if min(images.source.shape) < SHORTEST:
        return {}
    blocks = spread_blocks(images.source.shape, side, BLOCKS)
    read = {
        "input": [images.input(*block) for block in blocks],
        "enhanced": [images.output(*block) for block in blocks],
        "reference": [truth for block in blocks if (truth := images.truth(*block)) is not None],
    }
    curves = {name: _mean_power(parts) for name, parts in read.items() if parts}
    frequencies, power = curves["input"]
    curves["input"] = (frequencies / images.factor, power)
    return curves


def _mean_power(blocks: Sequence[Image]) -> Curve:
    stack = torch.from_numpy(np.stack(blocks)[:, None])
    frequencies, power = radial_power(stack)
    variance = max(float(stack.double().var()), 1e-30)
    return frequencies.numpy(), power.mean(dim=0).numpy() / variance


def _noise(
    source: Image, output: Image, factor: int, pairs: Pairs, remarks: list[str]
) -> tuple[dict[str, Curve], str]:
    """Return noise power of input and output, in grey values squared, and its source."""
    curves: dict[str, Curve] = {}
    for name, (first, second, scale) in pairs.items():
        frequencies, power = noise_power_of_halves(first, second)
        curves[name] = (frequencies / scale, power)
    if curves:
        return curves, "the difference of the two halves"
    if min(source.shape) < FLAT_SIDE:
        remarks.append(f"noise: not measured, blocks of {FLAT_SIDE} voxels don't fit")
        return {}, ""
    places = flat_places(source, FLAT_SIDE, BLOCKS)
    for name, image, scale in (("input", source, 1), ("enhanced", output, factor)):
        side = FLAT_SIDE * scale
        parts = [
            image[tuple(slice(p * scale, p * scale + side) for p in place)] for place in places
        ]
        frequencies, power = noise_power_of_flat_parts(parts)
        curves[name] = (frequencies * scale / factor, power)
    return curves, f"the {len(places)} most homogeneous blocks of {FLAT_SIDE}³ input voxels"


def _correlations(
    source: Image,
    output: Image,
    truth: Image | None,
    factor: int,
    pairs: Pairs,
    remarks: list[str],
) -> dict[str, tuple[ShellCorrelation, float]]:
    found: dict[str, tuple[ShellCorrelation, float]] = {}
    if min(source.shape) < SHORTEST:
        remarks.append(f"correlation: not measured, it needs {SHORTEST} voxels along each axis")
        return found
    for name, (first, second, scale) in pairs.items():
        found[f"halves: {name}"] = (fourier_shell_correlation(first, second), scale)
    if truth is not None:
        found["enhanced with reference"] = (fourier_shell_correlation(output, truth), 1.0)
        coarse = fourier_shell_correlation(source, _averaged(truth, factor))
        found["input with reference"] = (coarse, float(factor))
    return found


def _pair_of_halves(
    pair: tuple[Volume, Volume], images: Images, middle: tuple[Size, Size]
) -> tuple[Image, Image, float]:
    """Return the middle of two halves, and their voxels' length in voxels of the enhanced volume.

    Their shape tells if they are halves of the input or of the enhanced volume.
    """
    first, second = pair
    scales = {images.shape: 1, images.source.shape: images.factor}
    if first.shape not in scales or second.shape != first.shape:
        raise DataError(
            f"{first.name}, {second.name}: the halves have {list(first.shape)} and "
            f"{list(second.shape)} voxels, but need the input's {list(images.source.shape)} or "
            f"the enhanced volume's {list(images.shape)}"
        )
    scale = scales[first.shape]
    region = images.scaled(*middle, images.factor // scale)
    return first.read(*region)[0], second.read(*region)[0], float(scale)


def _averaged(image: Image, factor: int) -> Image:
    z, y, x = (n // factor for n in image.shape)
    blocks = image.reshape(z, factor, y, factor, x, factor)
    averaged: Image = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return averaged


def _histogram(image: Image) -> Curve:
    low, high = np.percentile(image, [0.05, 99.95])
    margin = 0.1 * max(high - low, 1e-6)
    density, edges = np.histogram(image, 120, (low - margin, high + margin), density=True)
    return (edges[:-1] + edges[1:]) / 2, density.astype(np.float64)


def resolution_rows(
    found: Measurements, voxel_size_um: float | None
) -> list[tuple[str, str, float, float | None]]:
    """Return (curve, criterion, voxels of the enhanced volume, um if the voxel size is known)."""
    rows = []
    for name, (curve, scale) in found.correlations.items():
        for criterion, threshold in (("1/7", 1 / 7), ("half-bit", curve.half_bit)):
            voxels = curve.resolution(threshold).voxels * scale
            length = None if voxel_size_um is None or math.isinf(voxels) else voxels * voxel_size_um
            rows.append((name, criterion, voxels, length))
    return rows
