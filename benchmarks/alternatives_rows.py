"""The rows of `alternatives.py`: their names, computations and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import alternatives_elsewhere as elsewhere
import alternatives_filters as filters
import alternatives_training as training
from alternatives_judge import Judge
from alternatives_results import LeftOut, Record, Result, Store
from alternatives_sets import Scans, read

from cyclegan import Config
from cyclegan.config import load_yaml


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command line for the rows."""

    budget: training.Budget
    recipe: Path | None = None
    seed_recipe: Path | None = None
    pseudo_recipe: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted configuration keys that all trainings set."""
    bm4d: Path | None = None
    n2v: Path | None = None
    n2v_minutes: float | None = None
    """The longest that Noise2Void may train, whatever the budget."""

    def recipe_path(self, kind: str, scale: int) -> Path:
        """Return the YAML of a kind of training. Errors: `LeftOut` if it is not there."""
        given = {"seed": self.seed_recipe, "pseudo": self.pseudo_recipe, "ours": self.recipe}
        return training.recipe_path(kind, scale, given[kind])

    def our_recipe(self, scale: int) -> Path | None:
        """Return our own recipe, which sets the length of all trainings; None if it is missing."""
        try:
            return self.recipe_path("ours", scale)
        except LeftOut:
            return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of one data set with one seed."""

    scans: Scans
    judge: Judge
    options: Options
    store: Store
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """An alternative."""

    name: str
    about: str
    """A sentence for the documents."""
    run: Callable[[Job], Result]
    settings: Callable[[Job], dict[str, Any]]
    """Settings with which a stored row must have been made to be used. Errors: `LeftOut`."""
    seeded: bool
    """False for a row that is computed once, because it draws no random numbers."""


def compute(row: Row, job: Job) -> Record:
    """Return the finished row, from the store if it is there. Errors: `LeftOut`."""
    data = job.scans.data
    seed = job.seed if row.seeded else None
    settings = {"set": data.definition(), "window": list(data.window), **row.settings(job)}
    found = job.store.find(data.name, row.name, seed, settings)
    if found is not None:
        return found
    result = row.run(job)
    record = {
        "row": row.name,
        "seed": seed,
        **asdict(job.judge(result.image)),
        "train_seconds": result.train_seconds,
        "enhance_seconds": result.enhance_seconds,
        "parameter": result.parameter,
        "details": dict(result.details),
        "settings": settings,
    }
    job.store.put(data.name, record, job.judge.slice(result.image))
    return record


def _filter(name: str, about: str) -> Row:
    def run(job: Job) -> Result:
        found = filters.candidates(name, job.scans.data.scale)
        choice = filters.choose(found, job.scans.source, job.judge)
        return Result(
            image=choice.image,
            enhance_seconds=choice.seconds,
            parameter=choice.label,
            details={"tried": choice.tried},
        )

    def settings(job: Job) -> dict[str, Any]:
        return {"tried": [c.label for c in filters.candidates(name, job.scans.data.scale)]}

    return Row(name=name, about=about, run=run, settings=settings, seeded=False)


def _bm4d(job: Job) -> Result:
    scans = job.scans
    return elsewhere.bm4d(
        job.options.bm4d, scans.source, scans.data.scale, job.judge, scans.reference
    )


def _bm4d_settings(job: Job) -> dict[str, Any]:
    return {"shares": list(elsewhere.SHARES_OF_NOISE)}


def _noise2void(job: Job) -> Result:
    budget = _noise2void_settings(job)
    return elsewhere.noise2void(
        job.options.n2v,
        job.scans.source,
        read(job.scans.folder / "fast_train.h5"),
        job.scans.data.scale,
        seed=job.seed,
        steps=budget["steps"],
        seconds=None if budget["minutes"] is None else 60 * budget["minutes"],
    )


def _noise2void_settings(job: Job) -> dict[str, Any]:
    minutes = job.options.budget.minutes
    steps = _steps(job, "ours", 1.0) if minutes is None else None
    return {"steps": steps, "minutes": minutes or job.options.n2v_minutes}


def _trained(name: str, kind: str, about: str, *, share: bool = False, last: bool = False) -> Row:
    """Return the row of a CycleGAN. `share`: trained as long as a trial; `last`: last generator."""

    def settings(job: Job) -> dict[str, Any]:
        return _training_settings(job, kind, _share(job, share))

    def run(job: Job) -> Result:
        training_name = f"{kind}{'-trial' if share else ''}"
        folder = job.store.training_folder(job.scans.data.name, training_name, job.seed)
        content = {"set": job.scans.data.definition(), **settings(job)}
        done = training.finished(folder, content)
        if done is None:
            steps = _steps(job, kind, _share(job, share))
            config = _config(job, kind, training_name).model_copy(update={"steps": steps})
            done = training.train(config, folder, content)
        image, seconds = training.enhanced(done.last if last else done.best, job.scans.source)
        step = done.steps if last else done.kept
        return Result(
            image=image,
            enhance_seconds=seconds,
            train_seconds=done.seconds,
            parameter=f"step {step} of {done.steps}",
        )

    return Row(name=name, about=about, run=run, settings=settings, seeded=True)


def _share(job: Job, trial: bool) -> float:
    return job.options.budget.trial if trial else 1.0


def _config(job: Job, kind: str, name: str) -> Config:
    """Return the configuration of a training, without its number of steps."""
    recipe = job.options.recipe_path(kind, job.scans.data.scale)
    changes = training.fitting(job.options.changes, recipe)
    return training.configuration(recipe, job.scans, name, job.seed, changes)


def _steps(job: Job, kind: str, share: float) -> int:
    """Return the number of steps; measure the speed first if the minutes are given."""
    ours = job.options.our_recipe(job.scans.data.scale)
    return training.steps_of(_config(job, kind, kind), job.options.budget, share, ours)


def _supervised(job: Job) -> Result:
    minutes = job.options.budget.minutes
    config = _config(job, "ours", "supervised")
    steps = _steps(job, "ours", 1.0) if minutes is None else None
    seconds = None if minutes is None else 60 * minutes
    image, found = training.supervised(config, job.scans, steps=steps, seconds=seconds)
    return Result(
        image=image,
        enhance_seconds=found["enhance_seconds"],
        train_seconds=found["train_seconds"],
        parameter=f"{found['steps']} steps",
    )


def _supervised_settings(job: Job) -> dict[str, Any]:
    return _training_settings(job, "ours", 1.0)


def _digest(recipe: Path) -> str:
    """Return a digest of what a recipe sets; its comments may change."""
    content = json.dumps(load_yaml(recipe), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _training_settings(job: Job, kind: str, share: float) -> dict[str, Any]:
    """Return the recipe's content and the length of the training."""
    recipe = job.options.recipe_path(kind, job.scans.data.scale)
    minutes = job.options.budget.minutes
    return {
        "recipe": recipe.name,
        "changes": training.fitting(job.options.changes, recipe),
        "digest": _digest(recipe),
        "steps": _steps(job, kind, share) if minutes is None else None,
        "minutes": None if minutes is None else minutes * share,
    }


_BEST = "its parameter is the best of those tried, chosen with the reference"
ALL = (
    _filter("input", "the fast scan as it is; at 2x and 4x interpolated with cubic splines"),
    _filter("Gaussian", f"`scipy.ndimage.gaussian_filter`; {_BEST}"),
    _filter("median", f"`scipy.ndimage.median_filter` over a ball; {_BEST}"),
    _filter("total variation", f"`skimage.restoration.denoise_tv_chambolle`; {_BEST}"),
    _filter(
        "non-local means",
        f"`skimage.restoration.denoise_nl_means`, patches within 4 voxels; {_BEST}",
    ),
    _filter("wavelets", f"BayesShrink in 3D, averaged over 8 shifts; {_BEST}"),
    Row(
        name="BM4D",
        about="`bm4d` with the best of six sigmas, chosen with the reference",
        run=_bm4d,
        settings=_bm4d_settings,
        seeded=False,
    ),
    Row(
        name="Noise2Void",
        about="`careamics`, trained on the fast training volume and on the judged window itself; it"
        " presumes independent noise in neighbouring voxels, which a reconstruction has not",
        run=_noise2void,
        settings=_noise2void_settings,
        seeded=True,
    ),
    _trained(
        "seed recipe",
        "seed",
        "our trainer with the settings of the software this one follows; the last generator",
        last=True,
    ),
    _trained(
        "seed recipe (kept)",
        "seed",
        "the same training, but the generator of the best score",
    ),
    _trained("pseudo pairs alone", "pseudo", "no adversary and no cycle: degraded slow scans only"),
    _trained("ours (trial)", "ours", "our recipe, as long as a trial of a study", share=True),
    _trained("ours (promoted)", "ours", "our recipe; the generator of the best score"),
    Row(
        name="supervised bound",
        about="the same U-Net trained with L1 on aligned pairs of the fast training volume, which"
        " nobody has who needs this software",
        run=_supervised,
        settings=_supervised_settings,
        seeded=True,
    ),
)
ROWS = {row.name: row for row in ALL}
"""All rows by name, in the order of the table."""
