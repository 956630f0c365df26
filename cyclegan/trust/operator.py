"""Trust maps, which show where not to trust an enhanced volume, computed tile by tile.

```
x ── G_A ── y ── mean over f^3 blocks, low-pass, grey match ──┬── | difference | = consistency
│                                                             │
├── low-pass ─────────────────────────────────────────────────┘
│           y ── G_B ── low-pass ──┬── | difference | = cycle
├── low-pass ──────────────────────┘
└── flip, G_A, flip back, for several flips (and generators) ── spread = disagreement
```

None of them needs a truth; docs/trust.md says what each can and can't see. All are local: a voxel
of a map depends on the input within a halo, which follows from both networks' geometry and the
filters' widths, so that tiles give the same result as one pass over the whole volume.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.enhance.grid import Size, Window
from cyclegan.enhance.network import Generator, eager
from cyclegan.enhance.tiling import Read
from cyclegan.errors import UsageError
from cyclegan.networks import Geometry, UNet3d
from cyclegan.numbers import ceil_div, round_up
from cyclegan.trust.calibration import (
    BLOCKS,
    BLURS,
    Calibration,
    Images,
    match_grey,
    radius_of,
    sample_windows,
    smooth,
)

Flip = tuple[int, ...]

FLIPS: tuple[Flip, ...] = ((), (0,), (1,), (2,))
"""Default flips: none, and along each of Z, Y, X."""
SIGMA = 1.5
"""Default low-pass of the maps: a Gaussian's standard deviation in voxels of the input."""
WEIGHTS: Mapping[str, float] = {"consistency": 1.0, "cycle": 0.5, "disagreement": 2.0}
"""Weights of the parts in the root mean square `doubt`, chosen on the simulator: docs/trust.md."""
EVERYTHING: Window = (slice(None), slice(None), slice(None))
TINY = 1e-6
"""Difference of grey values that counts as no deviation."""


class TrustOperator:
    """The enhanced image and its trust maps, as a `TileOperator`.

    Outputs: `data` (1, C', fz, fy, fx), the output of G_A alone; `trust/consistency` and
    `trust/cycle` (1, 1, z, y, x) on the input's grid; `trust/disagreement` and `trust/doubt`
    (1, 1, fz, fy, fx). The first three maps are in grey values (of the input, the input, the
    output); doubt has no unit and is about 1 where all parts are as large as they typically are in
    this volume. For images with several channels the maps are root mean squares over the channels.

    Args:
        G_A: generator A -> B, as a network or as a `Generator` (with device and precision).
        G_B: generator B -> A of the same training.
        others: generators A -> B of other checkpoints or trainings, which join the disagreement.
        flips: axes (0 Z, 1 Y, 2 X) to flip together, one tuple per image; `()` is no flip.
        sigma: width of the low-pass in voxels of the input.
        calibration: see `calibrated`; without it grey values are compared as they are.

    Errors: `UsageError` for networks that don't match or impossible flips.
    """

    def __init__(
        self,
        G_A: Generator | UNet3d,
        G_B: Generator | UNet3d,
        *,
        others: Sequence[Generator | UNet3d] = (),
        flips: Sequence[Flip] = FLIPS,
        sigma: float = SIGMA,
        calibration: Calibration | None = None,
    ) -> None:
        self.G_A, self.G_B = _ready(G_A), _ready(G_B)
        self.others = tuple(_ready(other) for other in others)
        self.flips = tuple(tuple(sorted(flip)) for flip in flips)
        self.sigma = sigma
        self.calibration = calibration or Calibration()
        _check_networks(self.G_A, self.G_B, self.others)
        _check_flips(self.flips, len(self.others))
        self.channels_in, self.channels_out = self.G_A.channels_in, self.G_A.channels_out
        self.factor = int(self.G_A.geometry.factor)
        # One voxel more for the interpolation onto the output's grid.
        reach = radius_of(math.hypot(sigma, max(BLURS))) + 1
        self.geometry = trust_geometry(
            self.G_A.geometry, self.G_B.geometry, [g.geometry for g in self.others], reach
        )
        self.alignment = self.geometry.alignment
        self.halo_left, self.halo_right = self.geometry.halo_left, self.geometry.halo_right

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """Output voxels per input voxel, `data` first."""
        fine, coarse = Fraction(self.factor), Fraction(1)
        return {
            "data": fine,
            "trust/consistency": coarse,
            "trust/cycle": coarse,
            "trust/disagreement": fine,
            "trust/doubt": fine,
        }

    @property
    def identity(self) -> str:
        """SHA-256 of the generators and all settings; equal identities mean equal maps."""
        parts = [g.identity for g in (self.G_A, self.G_B, *self.others)]
        settings = (self.flips, self.sigma, dataclasses.astuple(self.calibration), dict(WEIGHTS))
        return hashlib.sha256(repr((parts, settings)).encode()).hexdigest()

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Settings and calibration, for storage with the maps."""
        calibration = {f"trust_{k}": v for k, v in dataclasses.asdict(self.calibration).items()}
        return {
            "trust_sigma_voxels": self.sigma,
            "trust_flips": ",".join("".join("ZYX"[a] for a in f) or "none" for f in self.flips),
            "trust_other_generators": len(self.others),
            **calibration,
        }

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """Map (1, C, z, y, x), a window at a multiple of the alignment, to all outputs."""
        with torch.inference_mode():
            enhanced = self.G_A.translate(patch)
            return {"data": enhanced, **self._maps(self._images(patch, enhanced))}

    def calibrated(self, read: Read, shape: Size, *, blocks: int = BLOCKS) -> TrustOperator:
        """Return this operator, calibrated for a volume on `blocks` blocks spread over it.

        `read(origin, size)` gives (C, z, y, x) of the volume of `shape` (Z, Y, X), as for tiling.
        The shape determines the positions of the blocks: a volume always gives the same constants.
        """
        windows = sample_windows(self, read, shape, blocks)
        with torch.inference_mode(), eager():
            samples = [
                self._images(patch, self.G_A.translate(patch), core) for patch, core in windows
            ]
            matched = match_grey(samples, self.sigma)
            parts = [_parts(sample, matched, self.sigma) for sample in samples]
        scales = {
            name: _root_mean_square(
                [s.inner(part[name]) for s, part in zip(samples, parts, strict=True)]
            )
            for name in WEIGHTS
        }
        return TrustOperator(
            self.G_A,
            self.G_B,
            others=self.others,
            flips=self.flips,
            sigma=self.sigma,
            calibration=dataclasses.replace(matched, **scales),
        )

    def _images(self, patch: Tensor, enhanced: Tensor, core: Window = EVERYTHING) -> Images:
        return Images(
            coarse=_coarse(enhanced, self.factor),
            low=smooth(patch.to(enhanced), self.sigma),
            cycled=smooth(self.G_B.translate(enhanced).to(enhanced), self.sigma),
            disagreement=self._disagreement(patch, enhanced),
            core=core,
        )

    def _maps(self, images: Images) -> dict[str, Tensor]:
        parts = _parts(images, self.calibration, self.sigma)
        typical = {name: max(getattr(self.calibration, name), TINY) for name in parts}
        total = sum(weight**2 for weight in WEIGHTS.values())
        squares = sum(
            (WEIGHTS[name] / typical[name] * part).square() for name, part in parts.items()
        )
        parts["doubt"] = (squares / total).sqrt()
        grids = {name: self.outputs[f"trust/{name}"] for name in parts}
        return {f"trust/{name}": _fine(part, int(grids[name])) for name, part in parts.items()}

    def _disagreement(self, patch: Tensor, enhanced: Tensor) -> Tensor:
        """Return the standard deviation over flips and generators, its square smoothed."""
        total, squares, count = torch.zeros_like(enhanced), torch.zeros_like(enhanced), 0
        for generator in (self.G_A, *self.others):
            for flip in self.flips:
                axes = [axis + 2 for axis in flip]
                image = (
                    enhanced
                    if generator is self.G_A and not flip
                    else generator.translate(patch.flip(axes)).flip(axes).to(enhanced)
                )
                # Relative to the first image, so that squares of large grey values don't cancel.
                total += image - enhanced
                squares += (image - enhanced).square()
                count += 1
        variance = (squares / count - (total / count).square()).mean(dim=1, keepdim=True)
        smoothed = smooth(_coarse(variance.clamp_min(0), self.factor), self.sigma)
        return smoothed.sqrt()


def _parts(images: Images, calibration: Calibration, sigma: float) -> dict[str, Tensor]:
    """Return the three maps (1, 1, z, y, x) on the input's grid."""
    matched = smooth(images.coarse, math.hypot(sigma, calibration.blur))
    consistency = calibration.slope * matched + calibration.offset - images.low
    cycle = calibration.cycle_slope * images.cycled + calibration.cycle_offset - images.low
    return {
        "consistency": _magnitude(consistency),
        "cycle": _magnitude(cycle),
        "disagreement": images.disagreement,
    }


def trust_geometry(
    first: Geometry, back: Geometry, others: Sequence[Geometry] = (), reach: int = 0
) -> Geometry:
    """Return alignment and halo of the trust maps on the input's grid.

    `first` is G_A's geometry; `back` is G_B's, with lengths in output voxels of G_A; `reach` is the
    filters' share, in input voxels. The cycle needs G_B's halo around a voxel and G_A's around each
    voxel of that halo. A flipped window is read from its other end: both of its halos are the
    larger one of G_A.
    """
    factor = int(first.factor)
    # G_B's windows start at multiples of its alignment if A's start at multiples of `needed`.
    needed = back.alignment // math.gcd(back.alignment, factor)
    mine = math.lcm(first.alignment, *(g.alignment for g in others))
    alignment = math.lcm(mine, needed)
    flipped = round_up(reach, mine) + max(max(g.halo_left, g.halo_right) for g in (first, *others))

    def cycle(halo: int, halo_back: int) -> int:
        # A halo counts from a multiple of its network's alignment, hence the rounding in between.
        return (
            round_up(round_up(reach, needed) + ceil_div(halo_back, factor), first.alignment) + halo
        )

    left = max(flipped, cycle(first.halo_left, back.halo_left))
    right = max(flipped, cycle(first.halo_right, back.halo_right))
    return Geometry(
        factor=first.factor,
        alignment=alignment,
        halo_left=round_up(left, alignment),
        halo_right=round_up(right, alignment),
    )


def _coarse(image: Tensor, factor: int) -> Tensor:
    return image if factor == 1 else functional.avg_pool3d(image, factor)


def _fine(image: Tensor, factor: int) -> Tensor:
    """Return `image`, linearly interpolated onto a grid `factor` times finer; voxels are boxes."""
    if factor == 1:
        return image
    return functional.interpolate(image, scale_factor=factor, mode="trilinear", align_corners=False)


def _magnitude(difference: Tensor) -> Tensor:
    return difference.square().mean(dim=1, keepdim=True).sqrt()


def _root_mean_square(images: Sequence[Tensor]) -> float:
    count = sum(image.numel() for image in images)
    return math.sqrt(sum(float(image.double().square().sum()) for image in images) / count)


def _ready(network: Generator | UNet3d) -> Generator:
    return Generator(network) if isinstance(network, UNet3d) else network


def _check_networks(G_A: Generator, G_B: Generator, others: Sequence[Generator]) -> None:
    factor, back = G_A.geometry.factor, G_B.geometry.factor
    if factor * back != 1 or factor.denominator != 1:
        raise UsageError(
            f"trust map: G_A multiplies the resolution by {factor} and G_B by {back}; "
            "give both generators of one training, A -> B first"
        )
    if (G_A.channels_in, G_A.channels_out) != (G_B.channels_out, G_B.channels_in):
        raise UsageError(
            "trust map: G_A's and G_B's channels don't match; give both of one training"
        )
    if G_A.channels_in != G_A.channels_out:
        raise UsageError(
            f"trust map: an output of {G_A.channels_out} channels can't be compared with an input "
            f"of {G_A.channels_in}; enhance without the trust map"
        )
    for other in others:
        same = other.geometry.factor == factor and other.channels_out == G_A.channels_out
        if not same or other.channels_in != G_A.channels_in:
            raise UsageError(
                "trust map: the generators differ in channels or in factor; give generators of the "
                "same kind"
            )


def _check_flips(flips: Sequence[Flip], others: int) -> None:
    for flip in flips:
        if len(set(flip)) != len(flip) or not set(flip) <= {0, 1, 2}:
            raise UsageError(f"trust map: flip {flip}: axes are 0 (Z), 1 (Y), 2 (X), each once")
    if len(set(flips)) != len(flips) or len(flips) * (1 + others) < 2:
        raise UsageError(
            f"trust map: {len(flips)} flips of {1 + others} generators can't show a disagreement; "
            "give at least two different flips or another generator"
        )
