"""Retention as tables of what can go and what stays: plain values, no store."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from tracking.process import PROCESS
from tracking.retention import Rules, StoredRuns, is_large, plan, score_of, trial_state
from tracking.run_lookup import PARENT, RunInfo

DAY = 24 * 3600 * 1000
NOW = 1000 * DAY
ALL = Rules(deleted=True, failed_days=0, pruned=True, keep_best=1)


def run(name: str, kind: str = "train", *, ago: float = 60, **given: Any) -> RunInfo:
    """Return a run that ended `ago` days ago; its name is its id."""
    tags = {"kind": kind, "mlflow.source.name": f"cyclegan {kind}", **given.pop("tags", {})}
    score = given.pop("score", None)
    values: dict[str, Any] = {
        "id": name,
        "name": name,
        "experiment_id": "1",
        "experiment": "demo",
        "status": "FINISHED",
        "start_ms": round(NOW - (ago + 1) * DAY),
        "end_ms": round(NOW - ago * DAY),
        "params": {},
        "tags": {key: value for key, value in tags.items() if value is not None},
        "metrics": {} if score is None else {"score/value": score},
    }
    return RunInfo(**(values | given))


def trial(number: int, score: float | None, state: str = "complete", **given: Any) -> RunInfo:
    tags = {"study": "demo", "trial": str(number), "state": state, **given.pop("tags", {})}
    return run(f"demo-{number}", "trial", score=score, tags=tags, **given)


def stored(*runs: RunInfo, registered: Mapping[str, str] | None = None, **given: Any) -> StoredRuns:
    lives = {"living": True, "dead": False}
    values = {"is_alive": lives.get, "now_ms": NOW, "registered": registered or {}}
    return StoredRuns(runs=runs, **(values | given))


def freed(rules: Rules, *runs: RunInfo, **given: Any) -> set[str]:
    return set(plan(stored(*runs, **given), rules).ids)


@pytest.mark.parametrize(
    ("rules", "one", "goes"),
    [
        (Rules(), run("r", deleted=True, status="FAILED"), False),
        (Rules(deleted=True), run("r", deleted=True), True),
        (Rules(deleted=True), run("r"), False),
        (Rules(failed_days=30), run("r", status="FAILED", ago=31), True),
        (Rules(failed_days=30), run("r", status="FAILED", ago=29), False),
        (Rules(failed_days=30), run("r", status="KILLED", tags={"outcome": "interrupted"}), True),
        (Rules(failed_days=30), run("r", status="KILLED", tags={"outcome": "pruned"}), False),
        (Rules(failed_days=30), run("r", status="KILLED", tags={"outcome": "stopped"}), False),
        (Rules(failed_days=30), run("r", status="FINISHED"), False),
        (Rules(failed_days=0), run("r", status="RUNNING", tags={PROCESS: "dead"}), True),
        (Rules(failed_days=0), run("r", status="RUNNING", tags={PROCESS: "living"}), False),
        (
            Rules(failed_days=0),
            run("r", status="RUNNING", tags={PROCESS: "on another host"}),
            False,
        ),
        (Rules(failed_days=0), run("r", status="RUNNING"), False),
        (Rules(pruned=True), trial(1, 1.0, "pruned"), True),
        (Rules(pruned=True), trial(1, 1.0, "complete"), False),
        (Rules(pruned=True), trial(1, 1.0, "pruned", deleted=True), True),
        (Rules(keep_best=1), trial(1, 1.0), False),
        (Rules(keep_best=1), run("r", score=1.0), False),
        (Rules(named=frozenset({"r"})), run("r"), True),
        (Rules(named=frozenset({"r"})), run("s"), False),
        (Rules(deleted=True), run("r", deleted=True, tags={"mlflow.source.name": "x.py"}), False),
        (Rules(deleted=True), run("r", deleted=True, tags={"kind": None}), False),
        (Rules(named=frozenset({"r"})), run("r", tags={"mlflow.source.name": "x.py"}), True),
        (Rules(deleted=True, experiments=frozenset({"other"})), run("r", deleted=True), False),
        (Rules(deleted=True, experiments=frozenset({"demo"})), run("r", deleted=True), True),
    ],
)
def test_each_rule_by_itself(rules: Rules, one: RunInfo, goes: bool) -> None:
    assert (freed(rules, one) == {one.id}) is goes


def test_runs_of_other_programs_go_only_from_experiments_that_were_named() -> None:
    other = run("r", deleted=True, tags={"mlflow.source.name": "x.py", "kind": None})
    here = frozenset({"demo"})
    assert not freed(Rules(deleted=True, experiments=here), other)
    assert freed(Rules(deleted=True, experiments=here, others=True), other) == {"r"}


def test_the_best_trials_of_each_study_stay() -> None:
    trials = [trial(0, 1.0), trial(1, 3.0), trial(2, 2.0), trial(3, 9.0, "pruned")]
    trials.append(trial(4, None, "failed"))
    going_on = trial(5, None, "", status="KILLED", tags={"outcome": "interrupted"})
    other = trial(6, -5.0, experiment_id="2")
    every = [*trials, going_on, other]
    for count, gone in ((1, {0, 2, 3, 4}), (2, {0, 3, 4}), (3, {3, 4}), (4, {4}), (5, set())):
        wanted = {f"demo-{number}" for number in gone}
        assert freed(Rules(keep_best=count), *every) == wanted, count
    # A deleted trial takes no place: the next best one does not go because of it.
    gone_best = trial(7, 99.0, deleted=True)
    assert freed(Rules(keep_best=1), *trials, gone_best) == {
        *("demo-0", "demo-2", "demo-3", "demo-4", "demo-7")
    }


def test_trainings_with_other_seeds_go_with_their_trial() -> None:
    seed = {"study": "demo", "trial": "1", "seed": "4", "outcome": "completed"}
    runs = [trial(0, 5.0), trial(1, 1.0), run("seed", "seed", tags=seed)]
    assert freed(Rules(keep_best=1), *runs) == {"demo-1", "seed"}
    assert freed(Rules(keep_best=2), *runs) == set()


def test_an_abandoned_run_of_a_trial_follows_the_one_that_counts() -> None:
    """A trial that died before its first checkpoint begins anew in another run."""
    died = {"state": None, "outcome": "interrupted"}
    for state, goes in (("complete", False), ("pruned", True)):
        first = trial(1, None, ago=9, status="KILLED", tags=died, id="first")
        runs = [trial(1, 1.0, state, ago=5), first]
        for order in (runs, runs[::-1]):
            assert ("first" in freed(Rules(pruned=True), *order)) is goes


def project() -> list[RunInfo]:
    """A study with a promoted trial, a champion, a confirmation, a training and leftovers."""
    tags = {"study": "demo", "trial": "1"}
    parent = {PARENT: "study"}
    return [
        run("study", "study", tags={"study": "demo"}),
        *(trial(number, 0.1 * number, tags=parent) for number in range(4)),
        trial(4, 9.0, "pruned", tags=parent),
        run("promoted", "promoted", tags=tags | parent | {"promoted_from": "demo-1"}),
        run(
            "champion", "promoted", tags={"study": "demo", "trial": "2", "promoted_from": "demo-2"}
        ),
        run("enhanced", "enhance", tags={PARENT: "champion"}),
        run("going", status="RUNNING", tags={PROCESS: "living"}),
        run("chosen by hand"),
    ]


REGISTERED = {"champion": "demo@1, champion", "chosen by hand": "bone@1"}
SAFE = {"promoted", "champion", "demo-1", "demo-2", "going", "chosen by hand"}


def test_what_must_stay_stays_under_every_combination_of_rules() -> None:
    """These runs stay whether failed, deleted, pruned, last of their study or named."""
    looks: list[dict[str, Any]] = [
        {},
        {"status": "FAILED"},
        {"status": "KILLED", "deleted": True},
        {"metrics": {"score/value": -100.0}},
        {"extra": {"state": "pruned", "outcome": "pruned"}},
    ]
    options = itertools.product(
        (False, True), (None, 0), (False, True), (None, 1), (False, True), (False, True)
    )
    for deleted, days, pruned, best, named, artifacts_only in options:
        for look in looks:
            change = {key: value for key, value in look.items() if key != "extra"}
            runs = [
                RunInfo(**(vars(r) | change | {"tags": {**r.tags, **look.get("extra", {})}}))
                if r.id in SAFE and r.id != "going"
                else r
                for r in project()
            ]
            rules = Rules(
                deleted=deleted,
                failed_days=days,
                pruned=pruned,
                keep_best=best,
                named=frozenset(r.id for r in runs) if named else frozenset(),
                artifacts_only=artifacts_only,
            )
            gone = freed(rules, *runs, registered=REGISTERED)
            # Deleted in the interface and named here: a person has decided twice.
            twice = SAFE - {*REGISTERED, "going"} if named and look.get("deleted") else set()
            assert not gone & (SAFE - twice), (rules, look)
            if not artifacts_only:
                for one in runs:
                    below = {r.id for r in runs if r.parent == one.id and not r.deleted}
                    assert one.id not in gone or below <= gone, (rules, look, one.id)


def test_a_run_with_a_version_stays_even_if_it_was_deleted_and_named() -> None:
    one = run("r", "promoted", deleted=True)
    rules = Rules(named=frozenset({"r"}), deleted=True)
    assert freed(rules, one, registered={"r": "demo@1"}) == set()
    assert freed(rules, one) == {"r"}
    ((_, why),) = plan(stored(one), Rules(deleted=True)).kept
    assert "name it to delete it" in why


def test_a_trial_stays_as_long_as_its_promoted_run_is_stored() -> None:
    source = trial(1, -5.0, "pruned")
    rules = Rules(pruned=True)
    for tags in ({"promoted_from": "demo-1"}, {"study": "demo", "trial": "1"}):
        for deleted in (False, True):
            promoted = run("p", "promoted", tags=tags, deleted=deleted)
            ((one, why),) = plan(stored(source, promoted), rules).kept
            assert (one.id, why) == ("demo-1", "it became p")
    assert freed(rules, trial(1, -5.0, "pruned", tags={"promoted_to": "f" * 32})) == set()
    assert freed(rules, source) == {"demo-1"}


def test_parents_go_after_their_children_or_not_at_all() -> None:
    study = run("study", "study", status="FAILED")
    child = run("child", status="FAILED", tags={PARENT: "study"})
    grandchild = run("grandchild", "enhance", status="FAILED", tags={PARENT: "child"})
    rules = Rules(failed_days=0)
    whole = plan(stored(study, child, grandchild), rules)
    assert [one.id for one, _ in whole.free] == ["grandchild", "child", "study"]
    living = run("grandchild", "enhance", tags={PARENT: "child"})
    partly = plan(stored(study, child, living), rules)
    assert (partly.ids, [one.id for one, _ in partly.kept]) == (frozenset(), ["study", "child"])
    only = Rules(failed_days=0, artifacts_only=True)  # the rows stay, so no context is lost
    assert freed(only, study, child, living) == {"study", "child"}
    hidden = run("grandchild", tags={PARENT: "child"}, deleted=True)
    assert freed(rules, study, child, hidden) == {"study", "child"}


def test_parents_in_a_circle_do_not_hang() -> None:
    one, two = run("a", status="FAILED", tags={PARENT: "b"}), run("b", tags={PARENT: "a"})
    assert freed(Rules(failed_days=0), one, two) == set()
    assert freed(Rules(named=frozenset("ab")), one, two) == {"a", "b"}


def test_files_out_of_reach_keep_their_run_and_its_parents() -> None:
    runs = [
        run("study", "study", status="FAILED"),
        run("r", status="FAILED", tags={PARENT: "study"}),
    ]
    where = {"r": "its files lie in /elsewhere"}
    assert freed(Rules(failed_days=0), *runs, unreachable=where) == set()


@pytest.mark.parametrize(
    ("path", "large"),
    [
        ("volumes/cycle_40.h5", True),
        ("images/a+b.png", True),
        ("checkpoints/generator.pt", True),
        ("enhanced.html", True),
        ("config.yaml", False),
        ("rollbacks.json", False),
        ("NOTES.MD", False),
    ],
)
def test_texts_are_no_large_files(path: str, large: bool) -> None:
    assert is_large(path) is large


def test_scores_and_states_are_read_from_what_there_is() -> None:
    one = RunInfo(**(vars(run("r")) | {"metrics": {"score": 1.0, "score/best": 2.0}}))
    assert (score_of(one), score_of(run("r", score=3.0)), score_of(run("r"))) == (2.0, 3.0, None)
    assert trial_state(run("r", tags={"outcome": "completed"})) == "complete"
    assert trial_state(run("r", status="RUNNING", tags={"outcome": "completed"})) == ""
    assert trial_state(run("r", tags={"outcome": "interrupted"})) == ""
