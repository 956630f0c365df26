"""Scans: all regions of one dataset in one file share one grey scale.

A network knows a scan by the grey values of the regions that it was trained on. In any other region
of that scan the same material has the same grey value, so the same mean and standard deviation
standardise it, in validation and in enhancement. They are stored with the generator.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cyclegan.data.dataset import VolumeEntry
from cyclegan.data.files_behind import files_behind
from cyclegan.data.fingerprint import combined, file_hashes
from cyclegan.data.region import Place
from cyclegan.data.statistics import Statistics, pooled
from cyclegan.errors import DataError

logger = logging.getLogger(__name__)

_WHOLE = "[:, :, :]"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A dataset of a file, and the statistics that define its grey scale."""

    place: Place
    regions: tuple[str, ...]
    """Regions that were measured, e.g. `[0:60, :, :]`."""
    statistics: Statistics
    """Statistics of these regions together."""
    fingerprint: str = ""
    """Hash of the files behind it, see `fingerprint_of`; empty if unknown."""

    @property
    def subject(self) -> str:
        """Subject and verb of a sentence about the mean and standard deviation."""
        if _WHOLE in self.regions:
            return "all of this scan has"
        return f"{' and '.join(self.regions)} of this scan {'has' if self._one else 'have'}"

    @property
    def _one(self) -> bool:
        return len(self.regions) == 1

    def to_plain(self) -> dict[str, Any]:
        """Return the scan as numbers and text, for a file."""
        return {
            "path": str(self.place.path),
            "address": self.place.address,
            "dataset": self.place.name,
            "regions": list(self.regions),
            "fingerprint": self.fingerprint,
            **self.statistics.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Scan:
        """Return the scan that `to_plain` gave."""
        return cls(
            place=Place(Path(plain["path"]), int(plain["address"]), str(plain["dataset"])),
            regions=tuple(plain["regions"]),
            statistics=Statistics.from_plain(plain),
            fingerprint=str(plain["fingerprint"]),
        )


def by_place(scans: Iterable[Scan], known: Iterable[Scan] = ()) -> dict[Place, Scan]:
    """Return one scan for each dataset: the `known` one, else all its measured regions together.

    A region that is named twice counts once.
    """
    found = {scan.place: scan for scan in known}
    parts: dict[Place, dict[tuple[str, ...], Scan]] = {}
    for scan in scans:
        parts.setdefault(scan.place, {})[scan.regions] = scan
    for place, regions in parts.items():
        found.setdefault(place, _together(list(regions.values())))
    return found


def _together(parts: Sequence[Scan]) -> Scan:
    return replace(
        parts[0],
        regions=tuple(region for part in parts for region in part.regions),
        statistics=pooled([part.statistics for part in parts]),
    )


def fingerprint_of(place: Place, cache: Path | None = None) -> str:
    """Return a hash of the files that hold the dataset, wherever they lie; empty if that fails.

    Args:
        place: the dataset.
        cache: file that stores the hashes of large files, as for `fingerprint`.
    """
    try:
        files = files_behind(VolumeEntry(path=place.path, dset=place.name))
        return combined(file_hashes(files, cache=cache))
    except DataError as error:  # this is no reason to end a training
        logger.info("no fingerprint: %s", error)
        return ""


def find_scan(
    known: Sequence[Scan], place: Place, cache: Path | None = None
) -> tuple[Scan | None, str]:
    """Return the scan in `known` that lies at `place`, or None, and the reason as a text.

    `known` are the scans that a generator was trained on. Files with the same content hold the same
    scan, wherever they lie. If the content is unknown, the path decides.
    """
    if not known:
        return None, "the generator's file does not say what it was trained on"
    copies = [scan for scan in known if scan.place.address == place.address]
    named = [s for s in known if (s.place.path, s.place.name) == (place.path, place.name)]
    hashed = any(scan.fingerprint for scan in (*copies, *named))
    own = fingerprint_of(place, cache) if hashed else ""
    for scan in sorted(copies, key=lambda scan: scan.place != place):
        if own and scan.fingerprint == own:
            moved = "" if scan.place == place else f", then {scan.place.path}"
            return scan, f"the generator was trained on that{moved}"
        if scan.place == place and not (own and scan.fingerprint):
            return scan, "the generator was trained on that, judging by the file's path"
    if any(own and scan.fingerprint for scan in named):
        return None, "the file has changed since the generator was trained on it"
    return None, "the generator was not trained on it"
