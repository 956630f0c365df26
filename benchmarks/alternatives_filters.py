"""Plain filters, each with the parameter that is best against the reference, which favours them.

At 2x and 4x every parameter is tried in both orders: filter on the coarse grid and interpolate with
cubic splines, or the other way round. Parameters are in voxels of the grid that is filtered.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from alternatives_judge import Judge
from alternatives_wavelets import bayes_shrink
from machine import work_seconds
from numpy.typing import NDArray
from scipy import ndimage

from cyclegan.metrics.quality import SIGMAS

Array = NDArray[np.floating]
Filter = Callable[[Array], Array]
_NLM_H = (0.05, 0.08, 0.12, 0.2, 0.35, 0.45, 0.55, 0.7, 1.0)
"""Cut-offs of non-local means, in standard deviations of the fast scan."""
_WAVELET_STRENGTHS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0, 17.0, 25.0)
"""Factors on the noise, far above 1: a blurred scan has little noise in its diagonal details."""


@dataclass(frozen=True)
class Candidate:
    """A filter with its parameter."""

    label: str
    apply: Filter


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best of several candidates."""

    label: str
    image: Array
    seconds: float
    """Time of the chosen candidate alone; the choice took the sum over all."""
    tried: dict[str, float]
    """PSNR in dB of every candidate."""


def choose(candidates: Sequence[Candidate], source: Array, judge: Judge) -> Choice:
    """Return the candidate whose image of `source` has the highest PSNR against the reference."""
    best: Choice | None = None
    tried: dict[str, float] = {}
    for candidate in candidates:
        started = work_seconds()
        image = candidate.apply(source)
        seconds = work_seconds() - started
        quality = tried[candidate.label] = judge.psnr(image)
        if best is None or quality > tried[best.label]:
            best = Choice(label=candidate.label, image=image, seconds=seconds, tried=tried)
    if best is None:
        raise ValueError("no candidates given")
    return best


def candidates(name: str, scale: int) -> list[Candidate]:
    """Return the filter called `name` with all its parameters, and at 2x and 4x in both orders."""
    plain = [Candidate(label, apply) for label, apply in FILTERS[name]().items()]
    if scale == 1:
        return plain
    up = functools.partial(interpolated, scale=scale)
    if name == "input":
        return [Candidate("cubic", up)]
    before = [Candidate(f"{c.label}, then cubic", _then(c.apply, up)) for c in plain]
    after = [Candidate(f"cubic, then {c.label}", _then(up, c.apply)) for c in plain]
    return before + after


def interpolated(image: Array, scale: int) -> Array:
    """Return the image on a grid `scale` times finer, by cubic splines; voxels are boxes."""
    fine: Array = ndimage.zoom(image, scale, order=3, mode="nearest", grid_mode=True)
    return fine


def _then(first: Filter, second: Filter) -> Filter:
    return lambda image: second(first(image))


def _input() -> dict[str, Filter]:
    return {"-": lambda image: image}


def _gaussian() -> dict[str, Filter]:
    return {
        f"sigma {sigma:g}": functools.partial(ndimage.gaussian_filter, sigma=sigma)
        for sigma in SIGMAS
        if sigma
    }


def _median() -> dict[str, Filter]:
    def ball(radius: float) -> NDArray[np.bool_]:
        reach = np.arange(-int(radius), int(radius) + 1)
        z, y, x = np.meshgrid(reach, reach, reach, indexing="ij")
        return np.asarray(z**2 + y**2 + x**2 <= radius**2)

    balls = [ball(radius) for radius in (1, 1.5, 1.8, 2, 2.3, 3, 3.5, 4)]
    return {
        f"{ball.sum()} voxels": functools.partial(ndimage.median_filter, footprint=ball)
        for ball in balls
    }


def _total_variation() -> dict[str, Filter]:
    from skimage.restoration import denoise_tv_chambolle

    return {
        f"weight {weight:g}": functools.partial(
            denoise_tv_chambolle, weight=weight, eps=2e-5, max_num_iter=200
        )
        for weight in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2)
    }


def _non_local_means() -> dict[str, Filter]:
    from skimage.restoration import denoise_nl_means

    found: dict[str, Filter] = {}
    for patch, h in itertools.product((5, 7), _NLM_H):
        found[f"h {h:g}, patch {patch}"] = functools.partial(
            denoise_nl_means, h=h, patch_size=patch, patch_distance=4, fast_mode=True
        )
    return found


def _wavelets() -> dict[str, Filter]:
    found: dict[str, Filter] = {}
    for wavelet, levels, by_level, strength in itertools.product(
        ("haar", "db2"), (1, 2, 3), (False, True), _WAVELET_STRENGTHS
    ):
        if by_level and levels == 1:
            continue
        noise = "each level's" if by_level else "finest"
        found[f"{wavelet}, {levels} levels, {noise} noise times {strength:g}"] = functools.partial(
            bayes_shrink, wavelet=wavelet, levels=levels, strength=strength, by_level=by_level
        )
    return found


FILTERS: dict[str, Callable[[], dict[str, Filter]]] = {
    "input": _input,
    "Gaussian": _gaussian,
    "median": _median,
    "total variation": _total_variation,
    "non-local means": _non_local_means,
    "wavelets": _wavelets,
}
"""Functions by name; each returns the filter with every parameter, by label."""
