"""Records for a run: plain data that can wait in memory or on the disk.

Writing a record twice leaves one, so that after a failure in the middle it can be written again:
MLflow keeps one of equal points, tags and texts are replaced. Only pictures are then there twice.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tracking.cycle_volumes import CycleVolume
from tracking.downsampling import Sample
from tracking.run import DatasetInput, Run, Status


class Record(Protocol):
    """Something to be written."""

    def write(self, run: Run) -> None:
        """Write it; `CycleGANError` if the store fails."""

    def pack(self, bulk: Path) -> dict[str, Any]:
        """Itself as plain data for JSON; what is bulky goes to the new file `bulk`."""

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:
        """The record that `pack` made these of."""


@dataclass(frozen=True)
class Samples:
    """Metrics of some iterations."""

    samples: tuple[Sample, ...]

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_rows(self.samples)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return {"samples": [[s.iteration, dict(s.values), s.time_ms] for s in self.samples]}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(tuple(Sample(*sample) for sample in values["samples"]))


@dataclass(frozen=True)
class Metrics:
    """Metrics at one place on the axis that say nothing of how far the run is."""

    values: Mapping[str, float]
    step: int
    at_ms: int = field(default_factory=lambda: round(1000 * time.time()))

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_metrics(self.values, self.step, self.at_ms)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return {"values": dict(self.values), "step": self.step, "at_ms": self.at_ms}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(**values)


@dataclass(frozen=True)
class _Values:
    values: Mapping[str, Any]

    def pack(self, bulk: Path) -> dict[str, Any]:
        return {"values": dict(self.values)}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:
        return cls(values["values"])


@dataclass(frozen=True)
class Params(_Values):
    """Parameters; nested mappings become dotted names."""

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_params(self.values)


@dataclass(frozen=True)
class Tags(_Values):
    """Tags, set or replaced."""

    def write(self, run: Run) -> None:  # noqa: D102
        run.set_tags(self.values)


@dataclass(frozen=True)
class Note:
    """A paragraph of the run's description, `begin text`, in place of one that begins so."""

    begin: str
    text: str
    """Markdown."""

    def write(self, run: Run) -> None:  # noqa: D102
        run.annotate(self.begin, self.text)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return vars(self).copy()

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(**values)


@dataclass(frozen=True)
class Inputs:
    """The datasets a run reads."""

    inputs: tuple[DatasetInput, ...]

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_inputs(self.inputs)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return {"inputs": [vars(given) for given in self.inputs]}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(tuple(DatasetInput(**given) for given in values["inputs"]))


@dataclass(frozen=True)
class Picture:
    """A picture of a series, uint8 (Y, X) or (Y, X, 3)."""

    image: NDArray[np.uint8]
    key: str
    step: int

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_image(self.image, self.key, self.step)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        packed = io.BytesIO()
        Image.fromarray(self.image).save(packed, format="PNG")
        bulk.write_bytes(packed.getvalue())
        return {"key": self.key, "step": self.step}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        with Image.open(bulk) as image:
            return cls(np.asarray(image), values["key"], values["step"])


@dataclass(frozen=True)
class Text:
    """A text artifact, written anew."""

    text: str
    name: str

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_text(self.text, self.name)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return {"text": self.text, "name": self.name}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(**values)


@dataclass(frozen=True)
class Attachment:
    """A file to be copied among the artifacts of `folder`, under the name it has.

    It must stay as it is until it is written, or packed, which copies it.
    """

    path: Path
    folder: str
    name: str = ""
    """Another name than the file's own."""

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_file(self.path, self.folder, self.name)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        shutil.copyfile(self.path, bulk)
        return {"folder": self.folder, "name": self.name or self.path.name}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(bulk, **values)


@dataclass(frozen=True)
class End:
    """The run's last status."""

    status: Status
    reason: str
    at_ms: int = field(default_factory=lambda: round(1000 * time.time()))
    """Time of the end in ms since 1970; the store may learn of it much later."""

    def write(self, run: Run) -> None:  # noqa: D102
        run.finish(self.status, self.reason, self.at_ms)

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        return vars(self).copy()

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        return cls(**values)


KINDS: Mapping[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        *(Samples, Metrics, Params, Tags, Note, Inputs),
        *(Picture, CycleVolume, Text, Attachment, End),
    )
}
"""By the name a outbox has for them."""
