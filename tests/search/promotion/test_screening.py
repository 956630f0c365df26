"""Screening: did the trials' scores rank the full trainings?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from search.promotion import summary
from search.promotion.screening import correlate
from search.study import StudyHandle
from tracking import Store


@pytest.mark.parametrize(
    ("screening", "full", "rho", "p"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0, 1 / 6),
        ([1.0, 2.0, 3.0], [30.0, 20.0, 10.0], -1.0, 1.0),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], 1.0, 1 / 24),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0], 0.8, 4 / 24),
    ],
)
def test_the_rank_correlation_with_its_exact_chance(
    screening: list[float], full: list[float], rho: float, p: float
) -> None:
    found = correlate(screening, full)
    assert found is not None
    assert (found.rho, found.n) == (pytest.approx(rho), len(full))
    assert found.p == pytest.approx(p)


def test_many_pairs_and_ties_agree_with_scipy() -> None:
    random = np.random.default_rng(0)
    ours = random.integers(0, 6, 20).astype(float)
    theirs = ours + random.normal(size=20)
    found = correlate(list(ours), list(theirs))
    assert found is not None
    assert found.rho == pytest.approx(spearmanr(ours, theirs).statistic)
    assert found.p < 0.01


@pytest.mark.parametrize(
    ("screening", "full"), [([1.0, 2.0], [1.0, 2.0]), ([1.0] * 4, [1.0, 2.0, 3.0, 4.0])]
)
def test_what_has_no_correlation(screening: list[float], full: list[float]) -> None:
    assert correlate(screening, full) is None


def promoted(
    handle: StudyHandle, store: Store, trial: int, best: float, outcome: str = "completed"
) -> None:
    tags = {"study": "s", "trial": str(trial), "outcome": outcome}
    run = store.create_run("s", f"s-promoted-{trial}", kind="promoted", params={}, tags=tags)
    for iteration, score in ((50, best), (100, best - 3.0)):
        run.log_metrics({"score": score, "step": iteration}, step=iteration)
    run.finish("FINISHED")


def test_promoted_trainings_are_compared_with_both_screening_scores(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([4.0, 3.0, 2.0, 1.0], reports=[1.0, 2.0, 3.0, 4.0])
    for trial, best in ((0, 40.0), (1, 30.0)):
        promoted(handle, store, trial, best)
    promoted(handle, store, 2, 99.0, outcome="interrupted")
    few = summary(handle, store)
    assert (len(few.pairs), few.judged, few.last) == (2, None, None)
    assert "needs 3 promoted trials, not 2" in few.text()

    promoted(handle, store, 2, 20.0)
    found = summary(handle, store)
    assert [(p.trial, p.judged, p.last, p.full, p.steps) for p in found.pairs] == [
        (0, 1.0, 4.0, 40.0, 100),
        (1, 2.0, 3.0, 30.0, 100),
        (2, 3.0, 2.0, 20.0, 100),
    ]
    assert found.last is not None
    assert found.judged is not None
    assert (found.last.rho, found.judged.rho) == (pytest.approx(1.0), pytest.approx(-1.0))
    text = found.text()
    assert "at step 4: rho = -1.00 (n = 3, p = 1)" in text
    assert "at step 8: rho = 1.00 (n = 3, p = 0.17)" in text
    assert "3 trials are few" in text
    assert not math.isnan(found.data()["last"]["p"])
