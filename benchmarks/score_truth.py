"""True quality of a generator of the pool, against the phantom's noise-free truth.

The validation volume is another phantom than those used for training. An affine fit has a slope of
at least 0: an inverted image must not count as a good one. PSNR and SSIM are also measured against
the slow scan. `score_validity.py` uses this module and caches the numbers beside the generators.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from cyclegan.files import write_text
from cyclegan.generator import load_generator
from cyclegan.metrics.quality import affine_fit, psnr, ssim
from cyclegan.score import Generator

REGION = (slice(0, 64), slice(24, 136), slice(24, 136))
"""Region of the validation volume that is measured, 0.8 million voxels."""
RIM = 4
"""Width in voxels of the rim that is not judged."""
Image = np.ndarray


class Truth:
    """The validation volume's fast scan, slow scan and truth, from the simulator's folder."""

    def __init__(self, data: Path) -> None:
        self.source, self.slow, self.truth = (
            _read(data / f"{name}.h5")
            for name in ("fast_validate", "slow_validate", "validate_truth")
        )
        with h5py.File(data / "validate_truth.h5") as handle:
            self.std = float(handle["data"].attrs["std"])
            """Standard deviation of the attenuation before the file was standardised."""

    def __call__(self, G_A: Generator) -> dict[str, float]:
        """Return PSNR in dB and SSIM of the fast scan after `G_A`."""
        with torch.no_grad():
            image = G_A(torch.from_numpy(self.source)[None, None]).float()[0, 0].numpy()
        return self.of(image)

    def of(self, image: Image) -> dict[str, float]:
        """Return the same for a finished image."""
        image = _inner(np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0))
        found = {}
        for suffix, reference in (("", self.truth), ("_slow", self.slow)):
            fit = affine_fit(image, _inner(reference))
            fitted = fit(image) if fit.slope > 0 else np.full_like(image, _inner(reference).mean())
            found[f"psnr{suffix}"] = psnr(fitted, _inner(reference))
            found[f"ssim{suffix}"] = ssim(fitted, _inner(reference))
            found[f"slope{suffix}"] = fit.slope
        return found

    def best_gaussian(self) -> dict[str, float]:
        """Return the baseline: the Gaussian filter with the highest PSNR against the truth."""
        sigmas = np.arange(0.0, 2.5, 0.1)
        found = [self.of(gaussian_filter(self.source, sigma)) for sigma in sigmas]
        return max(found, key=lambda numbers: numbers["psnr"])


def generator_of(path: Path, direction: str = "A", precision: str = "bf16") -> Generator:
    """Return a stored generator in the arithmetic of its training."""
    network = load_generator(path, "A" if direction == "A" else "B").network
    if precision == "bf16":
        network = network.to(memory_format=torch.channels_last_3d)

    def apply(patches: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            result: torch.Tensor = network(patches).float()
        return result

    return apply


def truth_of(folder: Path, step: int, truth: Truth) -> dict[str, float]:
    """Return the numbers of one stored generator, from the cache if they are there."""
    cache = folder / f"truth-{step:05d}.json"
    if not cache.exists():
        numbers = truth(generator_of(folder / f"step-{step:05d}.pt"))
        write_text(cache, json.dumps(numbers))
    found: dict[str, float] = json.loads(cache.read_text(encoding="utf-8"))
    return found


def _read(path: Path) -> Image:
    with h5py.File(path) as handle:
        return np.ascontiguousarray(handle["data"][REGION])


def _inner(image: Image) -> Image:
    return image[RIM:-RIM, RIM:-RIM, RIM:-RIM]
