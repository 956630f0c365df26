"""The command `cyclegan simulate`: write simulated scans of both domains."""

from __future__ import annotations

from pathlib import Path

from cyclegan.errors import UsageError
from cyclegan.simulate import simulate
from workbench.session import Session


def run_simulation(
    session: Session, out_dir: Path, *, phantom: bool, scale: int, seed: int, overwrite: bool
) -> None:
    """Simulate both domains into `out_dir`, show the progress, and print the files."""
    if scale not in (1, 2, 4):
        raise UsageError(f"--scale {scale}: must be 1, 2 or 4")

    def on_progress(label: str, done: int, total: int) -> None:
        session.say(f"simulate: {done}/{total} {label}")

    made = simulate(
        out_dir,
        phantom=phantom,
        scale=scale,
        seed=seed,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    if made.reused:
        session.say(f"simulate: {out_dir} holds this simulation already, nothing to do")
    files = [str(path) for path in made.files]
    data = {"folder": str(out_dir), "reused": made.reused, "files": files}
    session.result(data, "\n".join(files))
