"""The four networks, their optimizers, and one training step.

```
fake_B = G_A(real_A)    rec_A = G_B(fake_B)     D_A judges real_B and fake_B
fake_A = G_B(real_B)    rec_B = G_A(fake_A)     D_B judges real_A and fake_A
```
Source: Zhu 2017 (CycleGAN), in three dimensions, with a change of resolution by s between A and B.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan.config import Config
from cyclegan.hparams import HParams
from cyclegan.losses import (
    TRUTH,
    adversarial_loss,
    by_channels,
    image_loss,
    resolve_terms,
    truth_table,
)
from cyclegan.networks import PatchDiscriminator, UNet3d, build_generator, initialise
from cyclegan.pool import ImagePool

IMAGES = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
"""The six images of a cycle, in the order of pictures."""


class CycleGAN(nn.Module):
    """Generators `G_A` (A -> B) and `G_B`, discriminators `D_A` (of B) and `D_B`, and optimizers.

    `mean_G_A` and `mean_G_B` are running means of the generators' weights (EMA): they are what is
    scored and what enhances a volume.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.device = device
        # Own seed, own scope: building networks must not move the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.G_A, self.G_B = (_initialised(config, direction) for direction in _DIRECTIONS)
            self.D_A = _discriminator(config, config.channels_B)
            self.D_B = _discriminator(config, config.channels_A)
        self.mean_G_A = _frozen(new_generator(config, "A"), self.G_A)
        self.mean_G_B = _frozen(new_generator(config, "B"), self.G_B)
        self.pools = {"fake_A": ImagePool(config.pool_size), "fake_B": ImagePool(config.pool_size)}
        # Own generator, on the CPU: no wait for the device, and the global state stays untouched.
        self.random = torch.Generator().manual_seed(config.seed)
        self.to(device)
        self.bf16 = config.precision == "bf16"
        if self.bf16:  # bf16 convolutions are fast in this layout only, fp32 ones in the other
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.generators = [*self.G_A.parameters(), *self.G_B.parameters()]
        self.discriminators = [*self.D_A.parameters(), *self.D_B.parameters()]
        self.optimizer_G = torch.optim.Adam(
            self.generators, lr=config.lr_g, betas=config.betas, fused=True
        )
        self.optimizer_D = torch.optim.Adam(
            self.discriminators, lr=config.lr_d, betas=config.betas, fused=True
        )
        self.terms = {
            group: resolve_terms(group, config.terms(group), device)
            for group in HParams.from_config(config).lambdas
            if any(getattr(config.lambdas, group)) or group[0] != "I"
        }
        self.hparams = HParams.from_config(config)
        self.rate_factor = 1.0
        """Of the learning-rate schedule; what the optimizers use is the rate times this."""

    def autocast(self) -> torch.autocast:
        """The context in which the networks run: their arithmetic in the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def apply_hparams(self, hparams: HParams) -> None:
        """Put `hparams` in force: lambdas for the next step, rates in the optimizers' groups."""
        self.hparams = hparams
        self.schedule(self.rate_factor)

    def schedule(self, factor: float) -> None:
        """Use the learning rates in force times `factor` from the next step on."""
        self.rate_factor = factor
        for optimizer, rate in (
            (self.optimizer_G, self.hparams.lr_g),
            (self.optimizer_D, self.hparams.lr_d),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def cycle(
        self, real_A: Tensor, real_B: Tensor, kickstart: tuple[bool, bool] = (False, False)
    ) -> dict[str, Tensor]:
        """The six images from patches (B, C, Z, Y, X) and (B, C, sZ, sY, sX).

        `kickstart` closes a cycle on the input itself, resized, instead of the translation: early
        on this ties each generator to the image's contrast, which else may come out inverted.
        """
        fake_B, fake_A = self.G_A(real_A), self.G_B(real_B)
        rec_A = self.G_B(_resize(real_A, fake_B) if kickstart[0] else fake_B)
        rec_B = self.G_A(_resize(real_B, fake_A) if kickstart[1] else fake_A)
        images = (real_A, fake_B, rec_A, real_B, fake_A, rec_B)
        return dict(zip(IMAGES, images, strict=True))

    def training_step(
        self, real_A: Tensor, real_B: Tensor, kickstart: tuple[bool, bool] = (False, False)
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of discriminators, then generators. Returns (metrics, images), all on device."""
        metrics: dict[str, Tensor] = {}
        with self.autocast():
            images = self.cycle(real_A, real_B, kickstart)
            loss_D = self._discriminator_loss(images, metrics)
        self.optimizer_D.zero_grad(set_to_none=True)
        loss_D.backward()  # type: ignore[no-untyped-call]
        self.optimizer_D.step()

        for parameter in self.discriminators:
            parameter.requires_grad_(False)  # their gradients are not wanted: half the work
        with self.autocast():
            loss_G = self._generator_loss(images, metrics)
        self.optimizer_G.zero_grad(set_to_none=True)
        loss_G.backward()  # type: ignore[no-untyped-call]
        for parameter in self.discriminators:
            parameter.requires_grad_(True)
        limit = self.config.grad_clip or float("inf")
        metrics["grad_norm_G"] = torch.nn.utils.clip_grad_norm_(self.generators, limit)
        self.optimizer_G.step()
        return metrics, {name: image.detach().float() for name, image in images.items()}

    def update_mean(self, step: int) -> None:
        """Move the mean generators towards the current ones; faster while training is young."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step)) if self.config.ema_decay else 0
        with torch.no_grad():
            for mean, current in ((self.mean_G_A, self.G_A), (self.mean_G_B, self.G_B)):
                torch._foreach_lerp_(list(mean.parameters()), list(current.parameters()), 1 - decay)

    def _discriminator_loss(
        self, images: Mapping[str, Tensor], metrics: dict[str, Tensor]
    ) -> Tensor:
        total: list[Tensor] = []
        for name, real, fake in (("D_A", "real_B", "fake_B"), ("D_B", "real_A", "fake_A")):
            judge = self.D_A if name == "D_A" else self.D_B
            terms, lambdas = self.terms[name], self.hparams.lambdas[name]
            shown = self.pools[fake].exchange(images[fake].detach(), self.random)
            pairs = by_channels(terms, judge.pair, images[real], shown)
            judged_real = {channels: pair[0] for channels, pair in pairs.items()}
            judged_fake = {channels: pair[1] for channels, pair in pairs.items()}
            loss_real, parts_real = adversarial_loss(terms, lambdas, judged_real, "real")
            loss_fake, parts_fake = adversarial_loss(terms, lambdas, judged_fake, "generated")
            total += [loss_real, loss_fake]
            for term in terms:
                both = parts_real[term.name] + parts_fake[term.name]
                metrics[f"loss/{term.name}"] = both.detach()
            table = truth_table(terms, *pairs[terms[0].channels])
            metrics |= {f"truth/{name}_{cell}": table[cell] for cell in TRUTH}
        return torch.stack(total).sum()

    def _generator_loss(self, images: Mapping[str, Tensor], metrics: dict[str, Tensor]) -> Tensor:
        total: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for name, judge, fake in (("G_A", self.D_A, "fake_B"), ("G_B", self.D_B, "fake_A")):
            terms, lambdas = self.terms[name], self.hparams.lambdas[name]
            judged = by_channels(terms, judge, images[fake])
            loss, values = adversarial_loss(terms, lambdas, judged, "generator")
            total.append(loss)
            parts |= values
        pairs = {
            "C_A": (images["rec_A"], images["real_A"]),
            "C_B": (images["rec_B"], images["real_B"]),
        }
        if "I_A" in self.terms:
            pairs["I_A"] = (self.G_A(self._as_A(images["real_B"])), images["real_B"])
        if "I_B" in self.terms:
            pairs["I_B"] = (self.G_B(self._as_B(images["real_A"])), images["real_A"])
        for name, (image, target) in pairs.items():
            loss, values = image_loss(self.terms[name], self.hparams.lambdas[name], image, target)
            total.append(loss)
            parts |= values
        metrics |= {f"loss/{name}": value.detach() for name, value in parts.items()}
        result = torch.stack(total).sum()
        metrics["loss/G_total"] = result.detach()
        return result

    def _as_A(self, image: Tensor) -> Tensor:
        """An image of domain B on A's grid."""
        factor = self.config.super_resolution
        return functional.avg_pool3d(image, factor) if factor > 1 else image

    def _as_B(self, image: Tensor) -> Tensor:
        """An image of domain A on B's grid."""
        factor = self.config.super_resolution
        return functional.interpolate(image, scale_factor=factor) if factor > 1 else image

    def training_state(self) -> dict[str, Any]:
        """Networks, optimizers and image pools; references, not copies."""
        return {
            "networks": self.state_dict(),
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` has, then the rates in force now: Adam brings old ones.

        `state` is copied: a snapshot can be restored more than once.
        """
        self.load_state_dict(state["networks"])
        # An optimizer keeps the tensors that it is given, and would train the snapshot on.
        self.optimizer_G.load_state_dict(deepcopy(state["optimizer_G"]))
        self.optimizer_D.load_state_dict(deepcopy(state["optimizer_D"]))
        for name, pool in self.pools.items():
            pool.load_state_dict(state["pools"][name], self.device)
        self.apply_hparams(self.hparams)


_DIRECTIONS: tuple[Literal["A", "B"], ...] = ("A", "B")


def new_generator(config: Config, direction: Literal["A", "B"]) -> UNet3d:
    """The generator A -> B (`A`) or B -> A (`B`) as `config` describes it, weights as PyTorch's."""
    channels = (config.channels_A, config.channels_B)
    inputs, outputs = channels if direction == "A" else channels[::-1]
    return build_generator(
        config.net_A if direction == "A" else config.net_B,
        filters=config.filters,
        depth=config.depth,
        channels_in=inputs,
        channels_out=outputs,
        activation=config.activation,
        upsampling=config.upsampling,
    )


def _initialised(config: Config, direction: Literal["A", "B"]) -> UNet3d:
    network = new_generator(config, direction)
    initialise(network, scheme=config.init, std=config.init_std)
    return network


def _discriminator(config: Config, channels: int) -> PatchDiscriminator:
    network = PatchDiscriminator(
        filters=config.filters_D,
        layers=config.layers_D,
        norm=config.norm_D,
        channels=channels,
        spectral_norm=config.spectral_norm_D,
    )
    initialise(network, scheme=config.init)
    return network


def _frozen(copy: UNet3d, original: UNet3d) -> UNet3d:
    copy.load_state_dict(original.state_dict())
    return copy.requires_grad_(False).eval()


def _resize(image: Tensor, like: Tensor) -> Tensor:
    if image.shape[2:] == like.shape[2:]:
        return image
    return functional.interpolate(image, size=like.shape[2:], mode="trilinear", align_corners=False)
