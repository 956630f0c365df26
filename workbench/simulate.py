"""The command `cyclegan simulate`: write simulated scans of both domains."""

from __future__ import annotations

from pathlib import Path

from cyclegan.errors import UsageError
from cyclegan.simulate import SimulatedDomains, simulate
from viz.console import Console
from workbench.output import Output


def simulate_scans(
    out_dir: Path,
    *,
    console: Console,
    phantom: bool = False,
    scale: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> SimulatedDomains:
    """Simulate scans of both domains into `out_dir`, and say how far it is."""
    if scale not in (1, 2, 4):
        raise UsageError(f"--scale {scale}: must be 1, 2 or 4")

    def on_progress(label: str, done: int, total: int) -> None:
        console.say(f"simulate: {done}/{total} {label}")

    made = simulate(
        out_dir,
        phantom=phantom,
        scale=scale,
        seed=seed,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    if made.reused:
        console.say(f"simulate: {out_dir} already holds this simulation, nothing to do")
    return made


def output_of(out_dir: Path, made: SimulatedDomains) -> Output:
    """Return the files of a simulation."""
    files = [str(path) for path in made.files]
    data = {"folder": str(out_dir), "reused": made.reused, "files": files}
    return Output(data=data, text="\n".join(files))
