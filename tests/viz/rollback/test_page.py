"""The page of a training's path: its contents; it is self-contained and stays small."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import numpy as np
import pytest

from cyclegan.config import Config, parse_config
from cyclegan.events import Cause, HParamChange, RollbackEvent
from cyclegan.history import Row
from cyclegan.hparams import HParams
from viz.palette import DISCARDED, page_colour
from viz.rollback import TrainingPath, ValidationScore, loss_panels, path_page
from viz.rollback.drawing import number, stairs, thinned, union, zigzag
from viz.rollback.path import Stretch

FIRST = HParams(lr_g=2e-4, lr_d=1e-4, lambdas={"G_A": (1.0,), "C_A": (100.0,), "I_A": (0.0,)})
MOVED = FIRST.changed({"lr_g": 1.23456e-4, "lambdas.C_A": 150.0})
LOSSES = {"cycle and identity": ["loss/C_A_l1"], "discriminators": ["loss/D_A_$x$"]}


def path(
    steps: int = 40,
    falls: Sequence[tuple[int, int]] = ((20, 10), (25, 5)),
    *,
    broken: bool = True,
    name: str = "train",
) -> TrainingPath:
    """Return the path of a training with these falls from one step to another, in this order."""
    random, rows, events, changes, scores = np.random.default_rng(0), [], [], [], []
    left, step, iteration, current = list(falls), 0, 0, FIRST
    while step < steps:
        step, iteration = step + 1, iteration + 1
        values = {n: float(random.lognormal()) for names in LOSSES.values() for n in names}
        if left and step == left[0][0]:
            values["loss/C_A_l1"] = math.nan if broken else 1e6
        rows.append(Row(iteration, step, values))
        scores += [ValidationScore(iteration, float(random.normal()), step != 20)] * (step % 5 == 0)
        if left and step == left[0][0]:
            _, back = left.pop(0)
            events.append(
                RollbackEvent(
                    from_step=step,
                    to_step=back,
                    iteration=iteration,
                    snapshot_iteration=back,
                    reason="loss <C_A> & more",
                    cause=Cause(kind="non_finite", severity=math.inf, attempt=len(events) + 1),
                    kickstart=7,
                    before=current,
                    after=MOVED,
                    outcome="" if left else "recovered",
                    concluded=0 if left else iteration + 3,
                )
            )
            log = {"iteration": iteration, "step": back, "reason": "", "changes": MOVED.flat()}
            changes.append(HParamChange(**log))
            current, step = MOVED, back
            rows = [Row(r.iteration, r.step, r.values, r.accepted and r.step <= back) for r in rows]
    return TrainingPath(
        name=name,
        rows=rows,
        rollbacks=events,
        changes=changes,
        initial=FIRST.flat(),
        losses=LOSSES,
        scores=scores,
    )


def figures(page: str) -> list[ElementTree.Element]:
    """Return the page's drawings, which must be well-formed."""
    texts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return [ElementTree.fromstring(text) for text in texts]  # noqa: S314  (our own)


def test_the_path_is_cut_into_what_was_kept_and_what_was_not() -> None:
    found = path()
    assert found.stretches == (
        Stretch(0, 5, accepted=True),
        Stretch(5, 20, accepted=False),  # 6..20, the first attempt
        Stretch(20, 35, accepted=False),  # 11..25, the second
        Stretch(35, 70, accepted=True),
    )
    assert found.steps[found.accepted].tolist() == list(range(1, 41))
    assert found.spent == "70 iterations for 40 steps: 30 (43 %) discarded"
    assert path(falls=()).discarded == ()


def test_hyperparameters_are_those_a_row_was_computed_with() -> None:
    rates = path(falls=[(20, 10)]).hparams["lr_g"]
    assert set(rates[:20]) == {2e-4}  # the fall at iteration 20 changed the following steps
    assert set(rates[20:]) == {1.23456e-4}
    assert set(path(falls=()).hparams["lambdas.C_A"]) == {100.0}


def test_the_page_stands_alone_and_is_the_same_every_time() -> None:
    page = path_page(path())
    assert not re.search(r"https?:|src=|<script|@import|url\((?!#)", page)
    assert page == path_page(path())
    assert len(figures(page)) == 2


def test_every_reference_leads_to_one_part() -> None:
    page = path_page(path())
    names = re.findall(r' id="([^"]+)"', page)
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in wanted} <= set(names)
    made = [name for name in names if re.fullmatch(r"[a-z][0-9a-f]{10}", name)]
    assert len(made) == len(set(made)) > 0


def strokes(page: str, name: str) -> set[str]:
    """Return the colours of the lines called `name`."""
    groups = [g for f in figures(page) for g in f.iter() if g.get("id") == name]
    styles = [p.get("style", "") for g in groups for p in g.iter() if p.tag.endswith("path")]
    return {match[1] for style in styles if (match := re.search(r"stroke: ([^;]+)", style))}


def test_discarded_attempts_are_grey_and_the_accepted_path_is_not() -> None:
    page, grey = path_page(path()), page_colour(DISCARDED)
    assert strokes(page, "discarded") == strokes(page, "way-discarded") == {grey}
    assert strokes(page, "accepted")
    assert grey not in strokes(page, "accepted") | strokes(page, "way-accepted")
    calm = path_page(path(falls=()))
    assert not strokes(calm, "discarded") | strokes(calm, "way-discarded")


def test_the_table_tells_every_event() -> None:
    page = path_page(path(name="<b>&"))
    assert "<b>&<" not in page
    assert "Rollbacks of &lt;b&gt;&amp;" in page
    assert page.count("loss &lt;C_A&gt; &amp; more") == 2
    for text in ("20 → 10", "25 → 5", "non_finite", "∞", "7 steps", "recovered", "not known yet"):
        assert text in page, text
    (changes,) = re.findall(r'<div class="changes">(.*?)</div>', page)
    assert re.findall(r"<span>(.*?)</span>", changes) == [
        *("lr_g", "2e-4", "→", "1.23e-4"),
        *("C_A", "100", "→", "150"),
    ]
    assert "<td>nothing</td>" in page  # the second fall left them as they were


@pytest.mark.parametrize("falls", [[(9_000, 2_000)], [(200 + 90 * k, 60 * k) for k in range(60)]])
def test_ten_thousand_steps_stay_below_a_megabyte(falls: list[tuple[int, int]]) -> None:
    found = path(10_000, falls)
    assert len(found.rows) > 10_000
    assert len(path_page(found).encode()) < 1_000_000


@pytest.mark.parametrize(
    "case", ["empty", "all discarded", "nothing finite", "negative", "no loss"]
)
def test_odd_trainings_are_drawn(case: str) -> None:
    found = path(30, [(20, 10)], broken=False)
    rows = list(found.rows)
    changes: dict[str, object] = {}
    if case == "empty":
        changes = {"rows": [], "scores": []}
    elif case == "all discarded":
        changes = {"rows": [Row(r.iteration, r.step, r.values, False) for r in rows]}
    elif case == "no loss":
        changes = {"losses": {}, "scores": [ValidationScore(5, -100.0, usable=False)]}
    else:
        value = math.nan if case == "nothing finite" else -1.0
        bad = dict.fromkeys(rows[0].values, value)
        changes = {"rows": [Row(r.iteration, r.step, bad, r.accepted) for r in rows]}
    assert len(figures(path_page(TrainingPath(**{**vars(found), **changes})))) == 2


def test_thinning_keeps_the_ends_of_every_column() -> None:
    x = np.arange(1.0, 1001)
    y = np.random.default_rng(0).normal(size=1000)
    y[[500, 700]] = 50, math.nan
    curve = thinned(x, y, 10.0)
    assert len(curve.x) == 101
    assert np.nanmax(curve.high) == 50
    assert curve.low.min() == np.nanmin(y)
    assert (curve.low <= curve.middle).all()
    assert (curve.middle <= curve.high).all()
    assert [round(place, -1) for place in curve.broken] == [700]
    whole = thinned(x, y, 1.0)
    assert np.array_equal(whole.middle, y, equal_nan=True)
    assert len(zigzag(curve)[0]) == len(zigzag(curve)[1]) < 203


def test_stairs_change_where_the_step_begins() -> None:
    x, y = stairs(np.array([5.0, 6, 7, 8]), np.array([1.0, 1, 3, 3]), 0.5)
    assert list(zip(x, y, strict=True)) == [(4, 1), (6, 1), (6, 3), (8, 3)]
    x, y = stairs(np.arange(1.0, 1001), np.arange(1000.0), 100.0)
    assert len(x) < 30
    assert y[-1] == 999


def test_spans_are_joined() -> None:
    assert union([(5, 8), (1, 2), (2, 3), (6, 7)]) == [(1, 3), (5, 8)]


def test_numbers_have_three_digits() -> None:
    values = [0, 1, 0.12345, 1234.5, 0.00012345, 3e7, math.inf, math.nan]
    texts = ["0", "1", "0.123", "1,230", "1.23e-4", "3e7", "∞", "not finite"]
    assert [number(value) for value in values] == texts


def test_panels_hold_all_terms_that_are_computed(config: Config) -> None:
    names = {"C_A": ["anything"]}
    lambdas = config.to_dict()["lambdas"] | {"I_A": 1.0, "I_B": 0.0}
    panels = loss_panels(parse_config(config.to_dict() | {"lossNames": names, "lambdas": lambdas}))
    assert "loss/anything" in panels["cycle and identity"]
    shown = [name for names in panels.values() for name in names]
    assert len(shown) == len(set(shown))
    assert [name for name in shown if "I_" in name] == ["loss/I_A_l1"]
