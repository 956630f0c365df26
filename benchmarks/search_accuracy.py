"""Check how far the models of `search_replay.py` and of studies can be trusted.

    python benchmarks/search_accuracy.py [--write-prior]

It prints how well a world's interpolation predicts configurations that were left out, and how well
the first part of a curve predicts its end, with the curve prior of the other pools; and how much
the difference of two good configurations varies between seeds, which a race of trials expects.
`--write-prior` also writes what studies know beforehand, from all pools:
`search/study/curve_prior.json` and `search/study/recorded_trials.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from search_pool import EVERY, POOLS, ROOT, SPACE, STEPS, TABLES, TIES
from search_worlds import (
    FIRST,
    FRACTIONS,
    REPORTS,
    Surface,
    Trainings,
    counted,
    curve_prior,
    earlier_study,
    read_curves,
    read_trainings,
)

from cyclegan.files import write_text
from search.study.curves import CurvePrior
from search.study.judging import JudgedBy
from search.study.prospects import KnownTrial, Prospects

Array = NDArray[np.float64]
RECORDED = ROOT / "search" / "study" / "recorded_trials.json"
PRIOR = ROOT / "search" / "study" / "curve_prior.json"


def accuracy(trainings: Trainings) -> dict[str, float]:
    """Return how well left-out configurations are predicted.

    `rho_score` and `rho_psnr` are Spearman's correlations of the predicted and the recorded values,
    at the report that counts; `between_seeds` is that of the two seeds' PSNR, the most that any
    model could reach. Two figures say how far a search can get that sees scores alone:
    `score_to_psnr`, the correlation of score and PSNR, and `among_the_better_half` that of the
    trainings whose score is above the median. `lost_by_score` is how many dB the configuration with
    the highest mean score lies below the best one.
    """
    surface = Surface.of(trainings)
    predicted = np.array([surface.without(n) for n in range(len(trainings.points))])
    scores = trainings.level.scores(predicted[:, :REPORTS], *trainings.usual[0])
    truth = trainings.truth.scores(predicted[:, REPORTS:], *trainings.usual[1])
    at = counted(scores)[:, None]
    ends, quality = trainings.scores[..., FIRST - 1 :].max(axis=-1), trainings.quality
    better = ends > np.median(ends)
    pairs = {
        "rho_score": (np.take_along_axis(scores, at, axis=-1)[:, 0], ends.mean(axis=1)),
        "rho_psnr": (np.take_along_axis(truth, at, axis=-1)[:, 0], quality.mean(axis=1)),
        "score_to_psnr": (ends.ravel(), quality.ravel()),
        "among_the_better_half": (ends[better], quality[better]),
    }
    if trainings.psnr.shape[1] > 1:
        pairs["between_seeds"] = (quality[:, 0], quality[:, 1])
    found = {name: float(spearmanr(*pair)[0]) for name, pair in pairs.items()}
    means = quality.mean(axis=1)
    lost = float(means.max() - means[trainings.ends.argmax()])
    return {"configurations": float(len(ends)), **found, "lost_by_score": lost}


def deviation_of_differences(trainings: Trainings, share: float = 1.0 / 3.0) -> float:
    """Return how much the difference of two good configurations varies between seeds, in score.

    Both are trained with the same seed, as in a race (`search.promotion.race`), which expects this
    deviation before it knows better. Good ones are the best `share` by their mean score.
    """
    ends = trainings.scores[..., FIRST - 1 :].max(axis=-1)
    best = ends[np.argsort(-ends.mean(axis=1))[: max(int(share * len(ends)), 2)]]
    one, other = np.triu_indices(len(best), 1)
    return float(np.sqrt((best[one] - best[other]).var(axis=1, ddof=1).mean()))


def forecasts(
    curves: Array, prior: CurvePrior, *, complete: int = 4, draws: int = 20
) -> list[tuple[float, float, float, float]]:
    """Return how well the beginnings of curves predict their ends in a study.

    The study has some complete trials; the others are forecast. For some fractions of a training:
    Spearman's correlation of the end with the last score, and with the forecast; and the share of
    ends within one standard deviation of it (0.68 if right). Means over random studies.
    """
    random, found = np.random.default_rng(0), []
    for seen in (REPORTS // 8, REPORTS // 4, REPORTS // 2, 3 * REPORTS // 4):
        figures = [
            _forecast_figures(random.permutation(curves), prior, complete, seen)
            for _ in range(draws)
        ]
        last, forecast, within = np.mean(figures, axis=0)
        found.append((float(FRACTIONS[seen - 1]), float(last), float(forecast), float(within)))
    return found


def _forecast_figures(
    curves: Array, prior: CurvePrior, complete: int, seen: int
) -> tuple[float, float, float]:
    steps = np.arange(EVERY, STEPS + 1, EVERY).tolist()
    trials = [
        KnownTrial(
            number=number,
            state="complete" if number < complete else "paused",
            point=(),
            reports=dict(zip(steps[: None if number < complete else seen], row, strict=False)),
            scores=dict(
                zip(steps[: None if number < complete else seen], row[REPORTS:], strict=False)
            ),
            score=float(row[-1]) if number < complete else None,
        )
        for number, row in enumerate(curves.tolist())
    ]
    known = Prospects(trials, STEPS, prior, FIRST * EVERY)
    ends = curves[complete:, -1]
    expected = np.array([known.forecasts[t.number] for t in trials[complete:]])
    units = known.scale.units(ends)
    within = np.abs(units - expected[:, 0]) < np.sqrt(expected[:, 1])
    last = float(spearmanr(curves[complete:, seen - 1], ends)[0])
    return last, float(spearmanr(expected[:, 0], ends)[0]), float(within.mean())


def recorded_trials(pools: Sequence[str]) -> dict[str, Any]:
    """Return the content of `search/study/recorded_trials.json` (see `search.study.recorded`)."""
    data = {}
    lows, highs = np.array(list(SPACE.values())).T
    for pool in pools:
        known = earlier_study(read_trainings(pool))
        values = lows * (highs / lows) ** np.clip(known.points, 0.0, 1.0)
        data[pool] = {
            "values": [[float(f"{v:.4g}") for v in row] for row in values],
            "ends": known.values.round(3).tolist(),
        }
    return {"keys": list(SPACE), "ties": dict(TIES), "data": data}


def main() -> None:
    """Print how well the models predict, and write the prior if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write-prior", action="store_true")
    options = parser.parse_args()
    names = [pool for pool in POOLS if (TABLES / f"{pool}.csv").exists()]
    for name in names:
        trainings = read_trainings(name)
        figures = accuracy(trainings)
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()))
        between = deviation_of_differences(trainings)
        print(f"  the difference of two good configurations varies by {between:.2f} between seeds")
        others = [other for other in names if other != name] or [name]
        for place, last, forecast, within in forecasts(read_curves(name), curve_prior(others)):
            print(
                f"  after {place:.2f}: rho of the last score with the end {last:5.2f}, of the"
                f" forecast {forecast:5.2f}; {100 * within:.0f} % of the ends within one deviation"
            )
    if options.write_prior:
        priors = {way: curve_prior(names, way).to_dict() for way in get_args(JudgedBy)}
        write_text(PRIOR, json.dumps(priors) + "\n")
        write_text(RECORDED, json.dumps(recorded_trials(names)) + "\n")


if __name__ == "__main__":
    main()
