"""A step's images are copied for readers only, who get float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Trainer, parse_config
from cyclegan.model import IMAGES
from cyclegan.step_images import StepImages
from search.rollback.detectors import Evidence


def test_an_image_is_widened_when_it_is_read_and_once() -> None:
    made = torch.randn(1, 1, 4, 4, 4).bfloat16()
    images = StepImages({"fake_B": made, "fake_A": made})
    read = images["fake_B"]
    assert read.dtype == torch.float32
    assert torch.equal(read, made.float())
    assert images["fake_B"] is read
    assert images.data["fake_A"] is made
    assert all(image.dtype == torch.float32 for image in images.values())


def test_a_float32_image_is_no_copy() -> None:
    made = torch.randn(1, 1, 4, 4, 4)
    assert StepImages({"fake_B": made})["fake_B"] is made


class Watching(Callback):
    """Take the images along at each step; read those of the last one."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.dtype]] = []
        self.read: dict[str, Tensor] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        images = Evidence(images=trainer.images).images
        assert not any(image.requires_grad for image in trainer.images.data.values())
        self.kept.append({name: image.dtype for name, image in trainer.images.data.items()})
        if trainer.step == 2:
            self.read = dict(images.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_whose_images_nobody_reads_copy_none(tiny: dict[str, Any], precision: str) -> None:
    changes = {"steps": 2, "imsize_A": [16, 16, 16], "precision": precision}
    watching = Watching()
    trainer = Trainer(parse_config(tiny | changes), [watching])
    assert trainer.config.precision == precision
    trainer.fit()
    made = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    real = dict.fromkeys(("real_A", "real_B"), torch.float32)
    assert watching.kept == [dict.fromkeys(IMAGES, made) | real] * 2
    assert {name: image.dtype for name, image in watching.read.items()} == dict.fromkeys(
        IMAGES, torch.float32
    )
