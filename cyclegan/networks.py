"""The networks: 3D U-Net generators that keep, raise or lower the resolution, and PatchGANs.

One class, `UNet3d`, covers all generators; a name (`UNetSim3d`, `UNetSim3dSRx2`, ...) stands for a
set of its parameters. Filters are multiples of a base number `filters` (the original's nf = 32).

```
level 0   conv 2nf ───────────────────────────── cat ─ conv nf/2 ─ conv 1x1x1
             │ pool                               ↑
level 1   conv 4nf ───────────── cat ─ decoder ───┘
             │ pool               ↑
level 2      └─────── decoder ────┘                  decoder = conv 3x3x3, ReLU, transposed conv x2
```

Networks that raise the resolution (SRx) have more decoders, above level 0; those that lower it
(SRd) leave out the last decoders and end on a coarser level. `depth` is the number of poolings of
the network that keeps the resolution; the numbers of the others follow from it. Sources:
Ronneberger 2015 (U-Net), Iglovikov 2018 (TernausNet blocks), Odena 2016 (resize and convolve
instead of transposed convolutions).

Every generator knows its own `geometry`: the input voxels on which an output voxel depends. Tiled
enhancement relies on it, and a test compares it with measured gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from cyclegan.convolution import Conv3d
from cyclegan.errors import ConfigError, nearest
from cyclegan.numbers import ceil_div, round_up


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of a network for tiled inference; all lengths in input voxels along each axis."""

    factor: Fraction
    """Output voxels per input voxel: 2 for SRx2, 1/4 for SRd4."""
    alignment: int
    """Tile origins and sizes must be multiples of this, or pooling falls on other voxels."""
    halo_left: int
    """Input voxels that a tile needs before its first one; a multiple of the alignment."""
    halo_right: int
    """Input voxels that a tile needs after its last one; a multiple of the alignment."""


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
}
"""Values of `activation`, with their layers."""


def _conv(inputs: int, outputs: int, activation: str) -> nn.Sequential:
    return nn.Sequential(Conv3d(inputs, outputs), ACTIVATIONS[activation]())


UPSAMPLINGS = ("transposed", "resize")
"""Values of `upsampling`."""


def _decoder(
    inputs: int, middle: int, outputs: int, activation: str, upsampling: str
) -> nn.Sequential:
    """Return a block that doubles the resolution: conv 3x3x3, then upsampling, each activated."""
    up: list[nn.Module] = (
        [nn.ConvTranspose3d(middle, outputs, 3, stride=2, padding=1, output_padding=1)]
        if upsampling == "transposed"
        else [nn.Upsample(scale_factor=2), Conv3d(middle, outputs)]
    )
    return nn.Sequential(*_conv(inputs, middle, activation), *up, ACTIVATIONS[activation]())


class UNet3d(nn.Module):
    """A 3D U-Net from (B, C, Z, Y, X) to (B, C', fZ, fY, fX) with f = `geometry.factor`.

    Args:
        filters: base number of filters nf; every layer's width is a multiple of it.
        encoder: the widths of each level's convolutions, in multiples of nf.
        pools: the pooling factor behind each level.
        end_level: the level whose resolution the output has; -1 is twice as fine as the input.
        channels_in, channels_out: image channels.
        activation: `relu` as in the original, or `leaky_relu`. A narrow network (nf = 8: four
            filters in its head) easily starts with a head of dead ReLUs and then never learns.
        upsampling: `transposed` convolutions as in the original, whose kernel of 3 with stride 2
            covers voxels unevenly and can leave a checkerboard; or `resize` (nearest neighbour)
            followed by a convolution, which covers all voxels alike.

    Each axis of the input must be a multiple of `geometry.alignment`.
    """

    def __init__(
        self,
        *,
        filters: int = 32,
        encoder: tuple[tuple[int, ...], ...] = ((2,), (4,)),
        pools: tuple[int, ...] = (2, 2),
        end_level: int = 0,
        channels_in: int = 1,
        channels_out: int = 1,
        activation: str = "relu",
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        self.pools = pools
        self.upsampling = upsampling
        self.convolutions = tuple(len(widths) for widths in encoder)
        self.end_level = end_level
        width = channels_in
        self.encoder = nn.ModuleList()
        skips: list[int] = []
        for widths in encoder:
            layers: list[nn.Module] = []
            for multiple in widths:
                layers.append(_conv(width, multiple * filters, activation))
                width = multiple * filters
            self.encoder.append(nn.Sequential(*layers))
            skips.append(width)
        # The first decoder leads from the bottom to the last level, the others to the end level.
        style = (activation, upsampling)
        self.decoders = nn.ModuleList([_decoder(width, 2 * filters, filters, *style)])
        for level in range(len(encoder) - 1, end_level, -1):
            skip = skips[level] if level >= 0 else 0
            self.decoders.append(_decoder(filters + skip, filters, filters, *style))
        skip = skips[end_level] if end_level >= 0 else 0
        self.head = nn.Sequential(
            _conv(filters + skip, max(filters // 2, 1), activation),
            nn.Conv3d(max(filters // 2, 1), channels_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Translate `x` (B, C, Z, Y, X)."""
        skips: list[Tensor] = []
        for block, pool in zip(self.encoder, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool3d(x, pool)
        level = len(skips)
        for decoder in self.decoders:
            x = decoder(x)
            level -= 1
            if level >= 0:
                x = torch.cat([x, skips[level]], dim=1)
        result: Tensor = self.head(x)
        return result

    @property
    def geometry(self) -> Geometry:
        """Factor, alignment and halo, from tracing an interval of output voxels to the input."""
        alignment = math.prod(self.pools)
        factor = (
            Fraction(2**-self.end_level)
            if self.end_level <= 0
            else Fraction(1, math.prod(self.pools[: self.end_level]))
        )
        outputs = int(4 * alignment * factor)
        first, last = self._needed(0, outputs - 1)
        return Geometry(
            factor=factor,
            alignment=alignment,
            halo_left=round_up(-first, alignment),
            halo_right=round_up(last - (4 * alignment - 1), alignment),
        )

    @property
    def receptive_field(self) -> int:
        """Most input voxels along an axis on which one output voxel can depend."""
        period = math.ceil(math.prod(self.pools) * self.geometry.factor)
        spans = (self._needed(voxel, voxel) for voxel in range(period))
        return max(last - first + 1 for first, last in spans)

    def _needed(self, first: int, last: int) -> tuple[int, int]:
        """Return the interval of input voxels that output voxels `first..last` need, per axis."""
        first, last = first - 1, last + 1  # the head's 3x3x3 convolution
        starts: dict[int, tuple[int, int]] = {}  # level -> interval needed of that level's skip
        level = self.end_level
        while True:
            if level >= 0:
                starts[level] = (first, last)
            if self.upsampling == "resize":
                first, last = (first - 1) // 2, (last + 1) // 2
            else:  # kernel 3, stride 2: reads i for output 2i, and i and i + 1 for 2i + 1
                first, last = first // 2, ceil_div(last, 2)
            first, last = first - 1, last + 1  # the convolution before it
            level += 1
            if level == len(self.pools):
                break
        for level in range(len(self.pools) - 1, -1, -1):
            pool = self.pools[level]
            first, last = first * pool, last * pool + pool - 1
            if level in starts:
                first, last = min(first, starts[level][0]), max(last, starts[level][1])
            first, last = first - self.convolutions[level], last + self.convolutions[level]
        return first, last


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Difference between a named network and the one that keeps the resolution at its depth."""

    depth: int = 2
    levels: int = 0
    """Number of poolings beyond `depth`."""
    end_level: int = 0
    first_pool: int = 2


_FAMILY = {
    "UNetSim3d": _Family(),
    "UNetSim3dSRx2": _Family(end_level=-1),
    "UNetSim3dSRx4": _Family(levels=-1, end_level=-2),
    "UNetSim3dSRd2": _Family(levels=1, end_level=1),
    # Twice as coarse as SRd2 with the same layers: the first pooling takes 4 voxels at once.
    "UNetSim3dSRd4": _Family(levels=1, end_level=1, first_pool=4),
    "UNet113d": _Family(depth=5),
}
GENERATORS = tuple(_FAMILY)
"""Values of `net_A` and `net_B`."""
_VGG11 = ((2,), (4,), (8, 8), (16, 16), (16, 16))


def build_generator(
    name: str,
    *,
    filters: int = 32,
    depth: int | None = None,
    channels_in: int = 1,
    channels_out: int = 1,
    activation: str = "relu",
    upsampling: str = "transposed",
) -> UNet3d:
    """Return the generator called `name`, with weights as PyTorch initialises them.

    `depth` is the number of poolings of the network of this family that keeps the resolution; the
    default is 5 for UNet113d and 2 for all others. Level by level the widths are those of VGG11.

    Errors: `ConfigError` with the nearest known name, or for a depth that leaves no level.
    """
    if name not in _FAMILY:
        raise ConfigError(f"network '{name}' is not known; {nearest(name, GENERATORS)}")
    family = _FAMILY[name]
    levels = (depth or family.depth) + family.levels
    if levels < 1:
        raise ConfigError(f"depth = {depth}: {name} needs at least {1 - family.levels}")
    return UNet3d(
        filters=filters,
        encoder=(*_VGG11, *_VGG11[-1:] * levels)[:levels],
        pools=(family.first_pool, *(2,) * (levels - 1)),
        end_level=family.end_level,
        channels_in=channels_in,
        channels_out=channels_out,
        activation=activation,
        upsampling=upsampling,
    )


def smallest_judged_axis(layers: int) -> int:
    """Return how many voxels a discriminator of so many layers needs along the shortest axis.

    After the halvings the two convolutions of stride 1 take one voxel each and must leave one.
    """
    return int(3 * 2**layers)


class PatchDiscriminator(nn.Module):
    """PatchGAN: judges overlapping patches of an image, (B, C, Z, Y, X) -> logits (B, 1, z, y, x).

    It has `layers` convolutions 4x4x4 of stride 2, then two of stride 1; widths nf, 2nf, 4nf, ...
    up to 8nf. `norm` always acts as in training: batch statistics come from the batch that is
    judged. `spectral_norm` divides every layer's weights by their largest singular value (Miyato
    2018). Source: Isola 2017 (pix2pix), in three dimensions.
    """

    def __init__(
        self,
        *,
        filters: int = 64,
        layers: int = 3,
        norm: str = "batch",
        channels: int = 1,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [
            nn.Conv3d(channels, filters, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        width = filters
        for layer in range(1, layers + 1):
            wider = filters * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            blocks += [
                nn.Conv3d(width, wider, 4, stride=stride, padding=1, bias=norm == "none"),
                *_normalisation(norm, wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width = wider
        blocks.append(nn.Conv3d(width, 1, 4, padding=1))
        if spectral_norm:
            blocks = [
                nn.utils.parametrizations.spectral_norm(b) if isinstance(b, nn.Conv3d) else b
                for b in blocks
            ]
        self.layers = nn.Sequential(*blocks)
        self._mixes_samples = norm == "batch"

    def forward(self, x: Tensor) -> Tensor:
        """Judge `x` (B, C, Z, Y, X)."""
        result: Tensor = self.layers(x)
        return result

    def pair(self, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Judge both images (B, C, Z, Y, X); in one pass unless normalisation would mix them."""
        if self._mixes_samples:
            return self(real), self(generated)
        judged_real, judged_generated = self(torch.cat([real, generated])).chunk(2)
        return judged_real, judged_generated


def _normalisation(norm: str, width: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm3d(width)]
    if norm == "instance":
        return [nn.InstanceNorm3d(width, affine=True)]
    return []


INITS = ("normal", "xavier", "kaiming", "orthogonal")
"""Values of `init`."""


def initialise(module: nn.Module, *, scheme: str = "normal", std: float = 0.02) -> None:
    """Draw convolution weights according to `scheme`, and set biases to 0.

    `normal`: N(0, std), as CycleGAN does (Zhu 2017). `xavier`: Glorot 2010. `kaiming`: He 2015, for
    ReLUs. `orthogonal`: Saxe 2014. The last three follow the layers' widths and ignore `std`.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            _draw(_own_weight(layer), scheme, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm3d | nn.InstanceNorm3d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def _own_weight(layer: nn.Module) -> Tensor:
    """Return the parameter behind `layer.weight`, from which spectral normalisation computes it."""
    parametrisations = getattr(layer, "parametrizations", None)
    owner, name = (
        (layer, "weight") if parametrisations is None else (parametrisations.weight, "original")
    )
    weight: Tensor = getattr(owner, name)
    return weight


def _draw(weight: Tensor, scheme: str, std: float) -> None:
    if scheme == "normal":
        nn.init.normal_(weight, 0.0, std)
    elif scheme == "xavier":
        nn.init.xavier_normal_(weight)
    elif scheme == "kaiming":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    else:
        nn.init.orthogonal_(weight)
