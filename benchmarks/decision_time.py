"""Time a decision of a large study, against the samplers of Optuna.

    OMP_NUM_THREADS=1 python benchmarks/decision_time.py [--trials 100 300 1000]

A study in a journal, seven searched keys, with that many trials: a half of them complete, the rest
paused at their first judgement. Timed are the values of a new trial (`ask`) by the sampler
`noisy_gp`, and the judgement of a running trial at a report (`pause`) by the pruner `thaw`; beside
them `ask` of Optuna's `GPSampler` and `TPESampler` in the same study. Processor seconds, the least
of some calls; the first decision after a trial has ended fits the model anew and is shown by
itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study import prospects
from search.study.definition import StudyDefinition, parse_definition
from search.study.outlook import verdict_of
from search.study.storage import StudyStorage
from search.study.study import optuna_study
from search.study.trials import PAUSED

KEYS = (
    *("lr_g", "lr_d", "lambdas.G_A", "lambdas.C_A"),
    *("lambdas.I_A", "lambdas.P_A", "lambdas.P_B"),
)
STEPS, FIRST, EVERY = 4_000, 1_000, 100
CALLS = 5


def definition_of(count: int) -> StudyDefinition:
    """Return a study of that many trials."""
    values = {
        "name": f"of-{count}",
        "config": {"data_A": "a.json", "data_B": "b.json"},
        "space": {key: {"type": "float", "low": 1e-4, "high": 1e-2, "log": True} for key in KEYS},
        "sampler": "noisy_gp",
        "pruner": "thaw",
        "trials": 2 * count,
        "steps": STEPS,
        "report_every": EVERY,
    }
    return parse_definition(values, Path("study.yaml"))


def filled(definition: StudyDefinition, count: int, folder: Path) -> optuna.Study:
    """Return the study with trials, complete and paused in turns."""
    random = np.random.default_rng(0)
    study = optuna_study(definition, StudyStorage(folder))
    assert isinstance(definition.space, dict)
    distributions = {key: dim.distribution() for key, dim in definition.space.items()}
    for number in range(count):
        place = random.random(len(KEYS))
        end = -4.0 * float(((place - 0.4) ** 2).sum()) + 0.1 * float(random.normal())
        complete = number % 2 == 0
        reports = range(EVERY, (STEPS if complete else FIRST) + 1, EVERY)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.RUNNING,
                value=end if complete else None,
                params=dict(zip(KEYS, (1e-4 * 100**place).tolist(), strict=True)),
                distributions=distributions,
                intermediate_values={at: end - 1.0 + at / STEPS for at in reports},
                user_attrs={} if complete else {PAUSED: {"step": FIRST}},
            )
        )
    return study


def running(study: optuna.Study) -> FrozenTrial:
    """Begin a trial, let it report up to its first judgement, and return it."""
    trial = study.ask()
    for key in KEYS:
        trial.suggest_float(key, 1e-4, 1e-2, log=True)
    for at in range(EVERY, FIRST + 1, EVERY):
        trial.report(-1.0 + at / STEPS, at)
    return study.get_trials(deepcopy=False)[trial.number]


def seconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """Return the least processor seconds of some calls."""
    found = []
    for _ in range(calls):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def measured(count: int, folder: Path) -> str:
    """Return the figures of a study of that many trials as a line."""
    definition = definition_of(count)
    study = filled(definition, count, folder)
    assert isinstance(definition.space, dict)
    distributions = {key: dim.distribution() for key, dim in definition.space.items()}
    trial = running(study)

    def pause() -> None:
        verdict_of(definition, study, trial, FIRST)

    def ask() -> None:
        study.ask(distributions)

    prospects._last_fit.clear()
    anew = seconds(pause, 1)
    parts = [f"pause {seconds(pause):.3f} s, the first after a trial's end {anew:.3f} s"]
    ours = seconds(ask)
    parts.append(f"ask {ours:.3f} s")
    peers: dict[str, optuna.samplers.BaseSampler] = {
        "GPSampler": optuna.samplers.GPSampler(seed=0),
        "TPESampler": optuna.samplers.TPESampler(seed=0),
    }
    for name, sampler in peers.items():
        study.sampler = sampler
        value = seconds(ask, 2)
        parts.append(f"{name}'s ask {value:.3f} s, {value / ours:.1f} times ours")
    return f"{count} trials: {'; '.join(parts)}"


def main() -> None:
    """Print a line for each size of a study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for count in options.trials:
        with TemporaryDirectory() as folder:
            print(measured(count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
