"""Apply an exported generator to a volume. Needs torch, numpy and h5py, and nothing else.

    unzip -p generator.pt2 '*/recipe.py' > recipe.py
    python recipe.py generator.pt2 scan.h5 enhanced.h5

The volume is standardised, extended at its far faces to a multiple of the alignment, translated
tile by tile with the halo that the file states, and written with its voxel size. Take only files
whose makers you trust: `torch.export.load` can run code that a forged file brings along.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch


def load(path: Path, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Return the generator, (B, C, Z, Y, X) -> (B, C', sZ, sY, sX), and the file's description."""
    files = {"cyclegan.json": ""}
    generator = torch.export.load(path, extra_files=files).module().to(device)
    return generator, json.loads(files["cyclegan.json"])


def measure(volume: np.ndarray, about: Mapping[str, Any]) -> tuple[float, float]:
    """Return the mean and standard deviation that standardise the volume; 0 and 1 to leave it.

    They are those of the whole volume; `trained_on` has those of a scan that the generator was
    trained on.
    """
    finite = volume[np.isfinite(volume)]
    mean, std = float(finite.mean(dtype=np.float64)), float(finite.std(dtype=np.float64))
    standardised = abs(mean) <= 0.1 and 0.9 <= std <= 1.1
    if about["standardise"] == "never" or (about["standardise"] == "auto" and standardised):
        return 0.0, 1.0
    return mean, std


def trained_on(about: Mapping[str, Any]) -> tuple[float, float]:
    """Return the mean and standard deviation of training, for any part of a scan trained on."""
    scale = about["input"]["grey_scale"]
    return (0.0, 1.0) if scale is None else (scale["mean"], scale["std"])


def standardise(volume: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Return (volume - mean) / std in float32, with the mean in place of non-finite voxels."""
    result = ((volume.astype(np.float64) - mean) / std).astype(np.float32)
    bad = ~np.isfinite(result)
    result[bad] = result[~bad].mean(dtype=np.float64)
    return result


def translate(
    generator: Any, about: Mapping[str, Any], volume: np.ndarray, tile: int | None = None
) -> np.ndarray:
    """Translate the standardised volume (C, Z, Y, X) to (C', sZ, sY, sX), rounded up.

    It takes `tile` input voxels along each axis at a time, a multiple of the alignment; the result
    does not depend on it. Without `tile` it takes the volume in one piece.
    """
    step, left, right = about["alignment"], about["halo_left"], about["halo_right"]
    scale: float = about["scale"]
    if tile is not None and (tile < 1 or tile % step):
        raise ValueError(f"a tile of {tile} voxels: this network needs multiples of {step}")
    shape = [-(-n // step) * step for n in volume.shape[1:]]
    missing = [(0, n - have) for n, have in zip(shape, volume.shape[1:], strict=True)]
    padded = np.pad(volume, [(0, 0), *missing], mode="edge")

    def scaled(length: int) -> int:
        return math.ceil(length * scale)

    result = np.empty((about["output"]["shape"][1], *map(scaled, shape)), np.float32)
    device = next(generator.parameters()).device
    for starts in itertools.product(*(range(0, n, tile or n) for n in shape)):
        ends = [min(start + (tile or n), n) for start, n in zip(starts, shape, strict=True)]
        firsts = [max(start - left, 0) for start in starts]
        lasts = [min(end + right, n) for end, n in zip(ends, shape, strict=True)]
        window = padded[:, *map(slice, firsts, lasts)]
        with torch.inference_mode():
            image = generator(torch.from_numpy(window.copy())[None].to(device))[0].cpu().numpy()
        places = list(zip(starts, ends, firsts, strict=True))
        inner = [slice(scaled(start - f), scaled(end - f)) for start, end, f in places]
        outer = [slice(scaled(start), scaled(end)) for start, end, _ in places]
        result[:, *outer] = image[:, *inner]
    return result[:, *(slice(scaled(n)) for n in volume.shape[1:])]


def grey_values(
    about: Mapping[str, Any], units: str, mean: float, std: float
) -> tuple[float, float]:
    """Return offset and factor from the generator's output to grey values in `units`."""
    if units == "input":
        return mean, std
    if units == "target":
        scale = about["output"]["grey_scale"]
        if scale is None:
            raise ValueError("the file does not know the target's grey values; take other units")
        return scale["mean"], scale["std"]
    return 0.0, 1.0


def main() -> None:
    """Read a volume, standardise and translate it, restore its grey values, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("generator", "volume", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--dataset", default="data")
    parser.add_argument("--tile", type=int, help="input voxels along each axis at a time")
    parser.add_argument(
        "--units", choices=("standardised", "input", "target"), default="standardised"
    )
    parser.add_argument(
        "--grey-scale",
        choices=("measured", "training"),
        default="measured",
        help="mean and std that standardise the volume: its own, or, for any part of a scan that"
        " the generator was trained on, those of the training",
    )
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    generator, about = load(asked.generator, asked.device)
    with h5py.File(asked.volume) as file:
        raw, size = file[asked.dataset][...], file[asked.dataset].attrs.get("voxel_size_um")
    mean, std = trained_on(about) if asked.grey_scale == "training" else measure(raw, about)
    volume = standardise(raw, mean, std).reshape(-1, *raw.shape[-3:])
    image = translate(generator, about, volume, asked.tile)
    offset, factor = grey_values(about, asked.units, mean, std)
    with h5py.File(asked.output, "w-") as file:
        file["data"] = offset + factor * (image[0] if len(image) == 1 else image)
        if size is not None:
            file["data"].attrs["voxel_size_um"] = size / about["scale"]


if __name__ == "__main__":
    main()
