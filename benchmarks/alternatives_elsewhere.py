"""BM4D and Noise2Void, each run by the Python of an environment of its own.

Neither is a dependency of this project. Arrays pass both ways as .npy files in a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from alternatives_filters import Array, interpolated
from alternatives_judge import Judge
from alternatives_results import LeftOut, Result

from cyclegan.metrics.quality import affine_fit

SHARES_OF_NOISE = (1.0, 1.5, 2.2, 3.2, 4.6, 6.6)
"""BM4D's sigmas, in units of the fast scan's true noise, which only the reference reveals.

The best one is above 1 because a tomogram's noise is coloured and BM4D assumes white noise.
"""


@dataclass(frozen=True)
class Program:
    """A script beside this one, and the package that its environment must have."""

    option: str
    module: str
    script: Path


HERE = Path(__file__).resolve().parent
BM4D = Program("--bm4d", "bm4d", HERE / "alternatives_bm4d.py")
N2V = Program("--n2v", "careamics", HERE / "alternatives_n2v.py")


def require(program: Program, python: Path | None) -> Path:
    """Return the Python that can run `program`. Errors: `LeftOut` if there is none."""
    if python is None:
        raise LeftOut(
            f"give {program.option} PYTHON, the Python of an environment with {program.module}"
        )
    if not python.is_file():
        raise LeftOut(f"{program.option} {python}: no such file")
    probe = [str(python), "-c", f"import {program.module}"]
    if subprocess.run(probe, env=_environment(), capture_output=True, check=False).returncode:
        raise LeftOut(
            f"{program.option} {python}: it can't import {program.module}; "
            f"{python} -m pip install {program.module}"
        )
    return python


def call(
    program: Program, python: Path, arrays: Mapping[str, Array], request: Mapping[str, Any]
) -> tuple[list[Array], dict[str, Any]]:
    """Run `program`; return its arrays `0.npy`, `1.npy`, ... and its answer. Errors: `LeftOut`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, array in arrays.items():
            np.save(folder / f"{stem}.npy", array)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        line = [str(python), str(program.script), name]
        done = subprocess.run(
            line, env=_environment(), cwd=name, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise LeftOut(f"{program.script.name} failed with code {done.returncode}: {last}")
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        count = len(list(folder.glob("[0-9]*.npy")))
        return [np.load(folder / f"{number}.npy") for number in range(count)], answer


def bm4d(python: Path | None, source: Array, scale: int, judge: Judge, reference: Array) -> Result:
    """Return BM4D's result with its best sigma.

    It is interpolated afterwards, because BM4D knows white noise only.
    """
    found = require(BM4D, python)
    noise = true_noise(source, reference, scale)
    sigmas = [share * noise for share in SHARES_OF_NOISE]
    images, answer = call(BM4D, found, {"input": source}, {"sigmas": sigmas})
    fine = [interpolated(image, scale) if scale > 1 else image for image in images]
    quality = [judge.psnr(image) for image in fine]
    best = int(np.argmax(quality))
    tried = dict(zip((f"{sigma:.3g}" for sigma in sigmas), quality, strict=True))
    return Result(
        image=fine[best],
        enhance_seconds=answer["seconds"][best],
        parameter=f"sigma {sigmas[best]:.3g}{', then cubic' if scale > 1 else ''}",
        details={"tried": tried},
    )


def noise2void(
    python: Path | None,
    source: Array,
    train: Array,
    scale: int,
    *,
    seed: int,
    steps: int | None,
    seconds: float | None,
) -> Result:
    """Return Noise2Void's result, trained on `train` and on `source` itself."""
    found = require(N2V, python)
    request = {"seed": seed, "steps": steps, "seconds": seconds}
    (image,), answer = call(N2V, found, {"input": source, "train": train}, request)
    return Result(
        image=interpolated(image, scale) if scale > 1 else image,
        enhance_seconds=answer["apply"],
        train_seconds=answer["train"],
        parameter=f"{answer['steps']} steps{', then cubic' if scale > 1 else ''}",
    )


def true_noise(source: Array, reference: Array, scale: int) -> float:
    """Return the standard deviation of `source` less the reference, both at one resolution."""
    z, y, x = source.shape
    coarse = reference.reshape(z, scale, y, scale, x, scale).mean(axis=(1, 3, 5))
    return float(np.std(source - affine_fit(coarse, source)(coarse)))


def _environment() -> dict[str, str]:
    """Return an environment with one thread and without this environment's packages."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
