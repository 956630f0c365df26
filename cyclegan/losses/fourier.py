"""Fourier shell correlation as a loss: agreement at every scale, whatever the contrast."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cyclegan.losses.precision import at_least_single
from cyclegan.metrics.spectrum import frequency_grid

FLOOR: Final = 1e-2
"""Standard deviation of the faint white noise, common to both images, that is assumed in each
shell: the loss of constant images and its gradient stay finite, and empty shells agree."""


@at_least_single
def fsc(image: Tensor, target: Tensor) -> Tensor:
    """1 - Fourier shell correlation of images (B, C, Z, Y, X), averaged over the shells.

    In each shell of frequencies, FSC = Re sum(F conj(G)) / sqrt(sum |F|^2 sum |G|^2). Shells are
    one frequency step of the shortest axis wide and reach to Nyquist; the mean grey value is in
    none. They all weigh the same: coarse scales as much as fine ones, which have most of the
    frequencies. 0: identical but for a positive factor and an offset; 1: unrelated; 2: inverted.
    Noise a hundredth as strong as the standardised signal counts as none (`FLOOR`).
    Source: Harauz and van Heel, Optik 73, 146 (1986); van Heel and Schatz 2005.

    Both images are tapered by a Hann window first. A patch is no period of its volume, and the
    jumps at its faces would spread its coarse structure over all shells along the axes, where it
    correlates and hides that fine structure doesn't. Voxels near the faces therefore count less.
    """
    window = _window(image)
    density = window.square().sum()
    f, g = _spectrum(image, window), _spectrum(target, window)
    cross = f.real * g.real + f.imag * g.imag
    powers = torch.stack(
        [cross, f.real.square() + f.imag.square(), g.real.square() + g.imag.square()]
    )
    z, y, x = image.shape[2:]
    index, weights, modes = _shells((z, y, x), image.device)
    gathered = (
        powers.flatten(3).index_select(3, index.flatten()).view(*powers.shape[:3], *index.shape)
    )
    sums = (gathered * weights.to(gathered)).sum(dim=4) / density + FLOOR**2 * modes.to(gathered)
    correlation: Tensor = sums[0] / (sums[1] * sums[2]).sqrt()
    return 1 - correlation.mean()


def _spectrum(images: Tensor, window: Tensor) -> Tensor:
    """(B, C, Z, Y, X // 2 + 1): transform of the windowed images, their windowed mean off."""
    # Else the mean, through the window, would leak into the first shells.
    mean = (images * window).sum(dim=(2, 3, 4), keepdim=True) / window.sum()
    spectrum: Tensor = torch.fft.rfftn((images - mean) * window, dim=(2, 3, 4))
    return spectrum


def _window(images: Tensor) -> Tensor:
    """(Z, Y, X): a separable Hann window, its zeros just outside the image."""
    window = torch.ones((), device=images.device, dtype=images.dtype)
    for size in images.shape[2:]:
        line = torch.hann_window(size + 2, periodic=False, device=images.device, dtype=images.dtype)
        window = window[..., None] * line[1:-1]
    return window


@functools.lru_cache(maxsize=16)
def _shells(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which modes of `rfftn` each of S shells holds, as an index (S, L) into the flat spectrum.

    Also the weights (S, L), how many modes of the full spectrum each stands for, and the number of
    modes (S,), at least 1. Shells are padded to the longest with modes of weight 0. Summing
    gathered rows, each mode gathered once, repeats bit for bit on a GPU, where adding into bins
    doesn't.
    """
    k_z, k_y, k_x = frequency_grid(shape)
    size = max(min(shape), 2)
    shell = np.rint(np.sqrt(k_z**2 + k_y**2 + k_x**2) * size).astype(np.int64).reshape(-1)
    half = np.where((k_x == 0) | (k_x == 0.5), 1.0, 2.0)
    mirrored = np.broadcast_to(half, (shape[0], shape[1], k_x.size)).reshape(-1)
    members = [np.flatnonzero(shell == s) for s in range(1, size // 2 + 1)]
    unused = np.flatnonzero((shell == 0) | (shell > size // 2))
    longest = max(1, *map(len, members))
    index = np.stack([np.concatenate([m, np.resize(unused, longest - len(m))]) for m in members])
    weights = np.stack([np.pad(mirrored[m], (0, longest - len(m))) for m in members])
    with torch.inference_mode(False):  # kept for calls that do need gradients
        return (
            torch.from_numpy(index).to(device),
            torch.from_numpy(weights.astype(np.float32)).to(device),
            torch.from_numpy(weights.sum(axis=1).clip(min=1).astype(np.float32)).to(device),
        )
