"""The four networks, their optimizers, and one training step.

```
fake_B = G_A(real_A)    rec_A = G_B(fake_B)     D_A judges real_B and fake_B
fake_A = G_B(real_B)    rec_B = G_A(fake_A)     D_B judges real_A and fake_A
pseudo_A = degraded real_B                      G_A(pseudo_A) should be real_B
```
A training with all lambdas 0 except `P_A P_B H_A`, and the first `pretrain_steps` of any other,
compute the last line alone: no cycle, no discriminator.

Source: Zhu 2017 (CycleGAN), in three dimensions, with a change of resolution by s between A and B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclegan.config import Config
from cyclegan.degrader import Degrader
from cyclegan.hparams import HParams
from cyclegan.losses import (
    TRUTH,
    adversarial_loss,
    by_channels,
    gradient_penalty,
    image_loss,
    needs_both,
    resolve_terms,
    truth_table,
)
from cyclegan.networks import PatchDiscriminator, UNet3d, build_generator, initialise
from cyclegan.pool import ImagePool
from cyclegan.ranks import Ranks
from cyclegan.snapshot import copied
from cyclegan.step_images import StepImages

IMAGES = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
"""The six images of a cycle, in the order in which pictures show them."""


class CycleGAN(nn.Module):
    """Generators `G_A` (A -> B) and `G_B`, discriminators `D_A` (of B) and `D_B`, and optimizers.

    `mean_G_A` and `mean_G_B` are running means of the generators' weights (EMA); the score judges
    them, and they enhance volumes. `degrader` makes the pseudo pairs that `P_A`, `P_B` and `H_A`
    need. With several `ranks` the batches are this rank's part (see `cyclegan.ranks`).
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        degrader: Degrader | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks or Ranks()
        self.config = config
        self.device = device
        self.degrader = degrader
        # Own seed, own scope: building networks must not advance the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.G_A, self.G_B = (_initialised(config, direction) for direction in _DIRECTIONS)
            self.D_A = _discriminator(config, config.channels_B)
            self.D_B = _discriminator(config, config.channels_A)
        self.mean_G_A = _frozen(new_generator(config, "A"), self.G_A)
        self.mean_G_B = _frozen(new_generator(config, "B"), self.G_B)
        self.pools = {"fake_A": ImagePool(config.pool_size), "fake_B": ImagePool(config.pool_size)}
        # Own generator, on the CPU: no waiting for the device, and the global state is untouched.
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
            for group in config.groups_at_work()
        }
        self.hparams = HParams.from_config(config)
        self.rate_factor = 1.0
        """Factor of the learning-rate schedule; the optimizers use the rates times this."""
        self.residual_noise = config.degradation == "residual"
        """True if the noise of pseudo pairs is what the generator removes from real A."""
        self.lambda_factors: Mapping[str, float] = {}
        """Factors of the lambda schedule, by group; 1 for groups that are not in it."""

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks run in the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def apply_hparams(self, hparams: HParams) -> None:
        """Apply `hparams`: lambdas from the next step on, rates in the optimizers' groups."""
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
        """Return the six images from patches (B, C, Z, Y, X) and (B, C, sZ, sY, sX).

        `kickstart` closes a cycle on the input itself, resized, instead of on the translation.
        Early in training this ties each generator to the image's contrast, which might otherwise
        come out inverted.
        """
        fake_B, fake_A = self.G_A(real_A), self.G_B(real_B)
        rec_A = self.G_B(_resize(real_A, fake_B) if kickstart[0] else self._shaken(fake_B))
        rec_B = self.G_A(_resize(real_B, fake_A) if kickstart[1] else fake_A)
        images = (real_A, fake_B, rec_A, real_B, fake_A, rec_B)
        return dict(zip(IMAGES, images, strict=True))

    def _shaken(self, fake_B: Tensor) -> Tensor:
        """Return `fake_B` with `cycle_noise`, which destroys information hidden in it."""
        if not self.config.cycle_noise:
            return fake_B
        shape = (self.ranks.size * len(fake_B), *fake_B.shape[1:])
        noise = torch.randn(shape, generator=self._drawn_generator(), device=fake_B.device)
        own: Tensor = self.ranks.part.of(noise)
        return fake_B + self.config.cycle_noise * own.to(fake_B.dtype)

    def _drawn_generator(self) -> torch.Generator:
        """Return a generator on the device with a seed from the model's own random numbers."""
        return torch.Generator(self.device).manual_seed(self._drawn_seed())

    def _pool_random(self) -> torch.Generator:
        """Return the random numbers of an image pool.

        A pool draws as many as its images need, so the ranks, which must stay in step, have own
        ones for it.
        """
        if self.ranks.is_alone:
            return self.random
        return torch.Generator().manual_seed(self._drawn_seed() + self.ranks.rank)

    def _drawn_seed(self) -> int:
        return int(torch.randint(2**40, (1,), generator=self.random))

    def training_step(
        self,
        real_A: Tensor,
        real_B: Tensor,
        kickstart: tuple[bool, bool] = (False, False),
        *,
        step: int | None = None,
        halves: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], StepImages]:
        """Train the discriminators, then the generators, for one step.

        Returns (metrics, images), all on the device. `step` counts the steps before this one; None
        is a full step in which everything is due. `halves` are patches of both half scans of A, for
        `H_A`. Steps without cycles return no images.
        """
        metrics: dict[str, Tensor] = {}
        images: dict[str, Tensor] = {}
        restoring = self.restores_alone(step)
        if not restoring:
            with self.autocast():
                images = self.cycle(real_A, real_B, kickstart)
            self._discriminator_step(images, metrics, step)
        of_discriminators = set(metrics)
        for parameter in self.discriminators:
            parameter.requires_grad_(False)  # their gradients are not needed: half the work
        with self.autocast():
            losses = {} if restoring else self._cyclic_losses(images)
            losses |= self._restoring_losses(real_A, real_B, images, halves)
            loss_G = self._weighted(losses, metrics)
        self.optimizer_G.zero_grad(set_to_none=True)
        loss_G.backward()  # type: ignore[no-untyped-call]
        for parameter in self.discriminators:
            parameter.requires_grad_(True)
        metrics |= self.ranks.averaged(
            self.generators, {k: v for k, v in metrics.items() if k not in of_discriminators}
        )
        limit = self.config.grad_clip or float("inf")
        metrics["grad_norm_G"] = torch.nn.utils.clip_grad_norm_(self.generators, limit)
        self.optimizer_G.step()
        return metrics, StepImages({name: image.detach() for name, image in images.items()})

    def restores_alone(self, step: int | None) -> bool:
        """Return True if the step after `step` has no cycle and no discriminator."""
        young = step is not None and step < self.config.pretrain_steps
        return young or "C_A" not in self.terms

    def _discriminator_step(
        self, images: Mapping[str, Tensor], metrics: dict[str, Tensor], step: int | None
    ) -> None:
        if not self.judges:
            return
        shown = {
            fake: self.pools[fake].exchange(images[fake].detach(), self._pool_random())
            for _, _, fake in self.judges
        }
        with self.autocast():
            loss_D = self._discriminator_loss(images, shown, metrics)
        penalised = (self.config.penalty_R1 or self.config.penalty_R2) and (
            step is None or step % self.config.penalty_every == 0
        )
        if penalised:
            loss_D = loss_D + self._gradient_penalties(images, shown, metrics)
        self.optimizer_D.zero_grad(set_to_none=True)
        loss_D.backward()  # type: ignore[no-untyped-call]
        metrics |= self.ranks.averaged(self.discriminators, metrics)
        if self.config.grad_clip_D:
            norm = torch.nn.utils.clip_grad_norm_(self.discriminators, self.config.grad_clip_D)
            metrics["grad_norm_D"] = norm
        self.optimizer_D.step()

    @property
    def judges(self) -> tuple[tuple[str, str, str], ...]:
        """The active discriminators, each with the names of its real and its generated image."""
        both = (("D_A", "real_B", "fake_B"), ("D_B", "real_A", "fake_A"))
        return tuple(judge for judge in both if judge[0] in self.terms)

    def _gradient_penalties(
        self,
        images: Mapping[str, Tensor],
        shown: Mapping[str, Tensor],
        metrics: dict[str, Tensor],
    ) -> Tensor:
        """Return R1 at real and R2 at generated images; the weights make up for skipped steps."""
        total: list[Tensor] = []
        for name, real, fake in self.judges:
            judge = getattr(self, name)
            for key, weight, image in (
                ("R1", self.config.penalty_R1, images[real]),
                ("R2", self.config.penalty_R2, shown[fake]),
            ):
                if weight:
                    value = gradient_penalty(judge, image)
                    metrics[f"penalty/{name}_{key}"] = value.detach()
                    total.append(0.5 * weight * self.config.penalty_every * value)
        return torch.stack(total).sum()

    def enhance(self, real_A: Tensor) -> Tensor:
        """Return `real_A` enhanced by the mean generator, in the training's precision."""
        with torch.no_grad(), self.autocast():
            result: Tensor = self.mean_G_A(real_A)
        return result.float()

    def broken_networks(self) -> tuple[str, ...]:
        """Return the networks with weights that are not finite; one transfer from the device."""
        names = ("G_A", "G_B", "D_A", "D_B", "mean_G_A", "mean_G_B")
        return _not_finite({name: list(getattr(self, name).parameters()) for name in names})

    def broken_moments(self) -> tuple[str, ...]:
        """Return the optimizers with moments that are not finite; one transfer from the device.

        A gradient of 1e20 is finite but its square is not: Adam never moves that weight again.
        """
        names = ("optimizer_G", "optimizer_D")
        return _not_finite(
            {
                name: [
                    tensor
                    for moments in getattr(self, name).state.values()
                    for key, tensor in moments.items()
                    if key != "step"
                ]
                for name in names
            }
        )

    def update_mean(self, step: int) -> None:
        """Move the mean generators towards the current ones; faster early in training."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step)) if self.config.ema_decay else 0
        with torch.no_grad():
            for mean, current in ((self.mean_G_A, self.G_A), (self.mean_G_B, self.G_B)):
                torch._foreach_lerp_(list(mean.parameters()), list(current.parameters()), 1 - decay)

    def _discriminator_loss(
        self,
        images: Mapping[str, Tensor],
        shown: Mapping[str, Tensor],
        metrics: dict[str, Tensor],
    ) -> Tensor:
        total: list[Tensor] = []
        for name, real, fake in self.judges:
            judge = getattr(self, name)
            terms, lambdas = self.terms[name], self._lambdas(name)
            pairs = by_channels(terms, judge.pair, images[real], shown[fake])
            judged_real = {channels: pair[0] for channels, pair in pairs.items()}
            judged_fake = {channels: pair[1] for channels, pair in pairs.items()}
            loss_real, parts_real = adversarial_loss(
                terms, lambdas, judged_real, "real", judged_fake
            )
            loss_fake, parts_fake = adversarial_loss(
                terms, lambdas, judged_fake, "generated", judged_real
            )
            total += [loss_real, loss_fake]
            for term in terms:
                both = parts_real[term.name] + parts_fake[term.name]
                metrics[f"loss/{term.name}"] = both.detach()
            table = truth_table(terms, *pairs[terms[0].channels])
            metrics |= {f"truth/{name}_{cell}": table[cell] for cell in TRUTH}
        return torch.stack(total).sum()

    def _lambdas(self, group: str) -> tuple[float, ...]:
        """Return the weights in force, times the schedule's factor."""
        factor = self.lambda_factors.get(group, 1.0)
        weights = self.hparams.lambdas[group]
        return weights if factor == 1.0 else tuple(factor * weight for weight in weights)

    def _weighted(
        self, losses: Mapping[str, tuple[Tensor, dict[str, Tensor]]], metrics: dict[str, Tensor]
    ) -> Tensor:
        for _, parts in losses.values():
            metrics |= {f"loss/{name}": value.detach() for name, value in parts.items()}
        result = torch.stack([loss for loss, _ in losses.values()]).sum()
        metrics["loss/G_total"] = result.detach()
        return result

    def _cyclic_losses(
        self, images: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Return the generators' adversarial, cycle and identity losses, each (weighted, parts)."""
        losses: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        for name, judge, real, fake in (
            ("G_A", self.D_A, "real_B", "fake_B"),
            ("G_B", self.D_B, "real_A", "fake_A"),
        ):
            if name not in self.terms:
                continue
            terms = self.terms[name]
            judged = by_channels(terms, judge, images[fake])
            against = by_channels(terms, judge, images[real]) if needs_both(terms) else None
            losses[name] = adversarial_loss(
                terms, self._lambdas(name), judged, "generator", against
            )
        pairs = {
            "C_A": (images["rec_A"], images["real_A"]),
            "C_B": (images["rec_B"], images["real_B"]),
        }
        if "I_A" in self.terms:
            pairs["I_A"] = (self.G_A(self._as_A(images["real_B"])), images["real_B"])
        if "I_B" in self.terms:
            pairs["I_B"] = (self.G_B(self._as_B(images["real_A"])), images["real_A"])
        return losses | {name: self._image_loss(name, *pair) for name, pair in pairs.items()}

    def _restoring_losses(
        self,
        real_A: Tensor,
        real_B: Tensor,
        images: Mapping[str, Tensor],
        halves: tuple[Tensor, Tensor] | None,
    ) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Return the losses of pseudo pairs and half scans, each (weighted, parts).

        See `cyclegan.degrader` for both.
        """
        losses: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        if self.degrader is None:
            return losses
        if "P_A" in self.terms:
            pseudo_A = self._pseudo_A(self.degrader, real_A, real_B, images.get("fake_B"))
            losses["P_A"] = self._image_loss("P_A", self.G_A(pseudo_A), real_B)
        if "P_B" in self.terms:
            fake_A = images["fake_A"] if images else self.G_B(real_B)
            losses["P_B"] = self._image_loss("P_B", fake_A, self.degrader.signal(real_B))
        if "H_A" in self.terms and halves is not None:
            seen = self.degrader.signal(self.G_A(halves[0]))
            losses["H_A"] = self._image_loss("H_A", seen, halves[1])
        return losses

    def _pseudo_A(
        self, degrader: Degrader, real_A: Tensor, real_B: Tensor, fake_B: Tensor | None
    ) -> Tensor:
        # Always drawn: the choice of the noise must not change the random numbers that follow.
        seed = self._drawn_seed()
        if not self.residual_noise:
            return degrader(real_B, seed, self.ranks.part)
        with torch.no_grad():
            fake_B = self.G_A(real_A) if fake_B is None else fake_B
            return degrader.signal(real_B) + degrader.residual(real_A, fake_B)

    def _image_loss(
        self, group: str, image: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return image_loss(self.terms[group], self._lambdas(group), image, target)

    def _as_A(self, image: Tensor) -> Tensor:
        """Return an image of domain B on A's grid."""
        factor = self.config.super_resolution
        return functional.avg_pool3d(image, factor) if factor > 1 else image

    def _as_B(self, image: Tensor) -> Tensor:
        """Return an image of domain A on B's grid."""
        factor = self.config.super_resolution
        return functional.interpolate(image, scale_factor=factor) if factor > 1 else image

    def training_state(self) -> dict[str, Any]:
        """Return networks, optimizers and image pools; references, not copies."""
        return {
            "networks": self.state_dict(),
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
            "residual_noise": self.residual_noise,
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `training_state` returned, but keep the rates in force now.

        The optimizers' states bring old rates along. `state` is copied, so that a snapshot can be
        restored more than once.
        """
        self.load_state_dict(state["networks"])
        # An optimizer adopts the tensors that it gets, and would go on to train the snapshot.
        self.optimizer_G.load_state_dict(copied(state["optimizer_G"]))
        self.optimizer_D.load_state_dict(copied(state["optimizer_D"]))
        for optimizer in (self.optimizer_G, self.optimizer_D):
            _lay_out_like_weights(optimizer)
        self.load_pools(state["pools"])
        # Checkpoints of earlier versions have no pseudo pairs.
        self.residual_noise = bool(state.get("residual_noise", self.residual_noise))
        self.apply_hparams(self.hparams)

    def load_pools(self, state: Mapping[str, Any]) -> None:
        """Replace the image pools."""
        for name, pool in self.pools.items():
            pool.load_state_dict(state[name], self.device)


_DIRECTIONS: tuple[Literal["A", "B"], ...] = ("A", "B")


def new_generator(config: Config, direction: Literal["A", "B"]) -> UNet3d:
    """Return the generator A -> B (`A`) or B -> A (`B`) of `config`, with PyTorch's own weights."""
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


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the strides of their weights, which depend on the precision of the training.

    Fused Adam goes through the memory of both in order: with other strides it updates wrong
    weights on a CPU, and fails on a GPU.
    """
    for weight, moments in optimizer.state.items():
        for key, moment in moments.items():
            if moment.shape == weight.shape and moment.stride() != weight.stride():
                moments[key] = torch.empty_like(weight, dtype=moment.dtype).copy_(moment)


def _resize(image: Tensor, like: Tensor) -> Tensor:
    if image.shape[2:] == like.shape[2:]:
        return image
    return functional.interpolate(image, size=like.shape[2:], mode="trilinear", align_corners=False)


def _not_finite(groups: Mapping[str, Sequence[Tensor]]) -> tuple[str, ...]:
    """Return the names of the groups with a value that is not finite."""
    known = {name: tensors for name, tensors in groups.items() if tensors}
    if not known:
        return ()
    finite = [
        torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        for tensors in known.values()
    ]
    flags = torch.stack(finite).tolist()
    return tuple(name for name, good in zip(known, flags, strict=True) if not good)
