"""The page of a study is true, safe, self-contained, and quick for any number of trials."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from cyclegan.errors import DataError, UsageError
from cyclegan.model import IMAGES
from search.study import StudyHandle
from search.study.figures import FIGURES, write_figures
from search.study.importance import importance
from search.study.report import Evidence, gather, study_page, write_report
from search.study.report.facts import judged_iteration
from search.study.report.page import PANELS, saved_iterations
from search.study.report.updater import BEGIN, best_table
from search.study.trials import best_first
from tracking import Store
from tracking.run import with_paragraph
from tracking.views import CYCLE_PICTURES
from viz.pictures import CYCLES, cut_six, six_images
from viz.plots import Plot, new_figure

SHOWN = set(FIGURES) - {"parallel_coordinates", "pareto"}
"""The first takes long, and its lines hide each other; the second needs several objectives."""
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collect rows of the table of trials and attributes of all tags; fail on unmatched tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr" and dict(attrs).get("data-trial"):
            self.rows.append([])
        if tag == "td" and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data
        if "td" in self.open and self.rows:
            self.rows[-1][-1] += data


def page_of(handle: StudyHandle, state: str = "finished") -> str:
    return study_page(gather(handle, None, state))


def test_ranks_are_those_of_the_study_and_every_pruned_trial_says_why(make_study: Any) -> None:
    handle = make_study(12)
    page = Page(page_of(handle))
    assert len(page.rows) == 12
    first, best = page.rows[0], handle.best()
    assert (first[0], first[1], first[4]) == ("1", str(best.number), f"{best.score:.2f}")
    done = [float(row[4]) for row in page.rows if row[0]]
    assert done == sorted(done, reverse=True)
    trials = {str(t.number): t for t in handle.trials()}
    for row in page.rows:
        assert bool(row[0]) == (trials[row[1]].state == "complete")
        if trials[row[1]].state == "pruned":
            assert row[5] == trials[row[1]].reason
    assert f"{best.score:.2f} (trial {best.number})" in page.text
    assert importance(handle).caution in page.text


def test_every_curve_is_drawn_and_every_drawing_is_told_in_words(make_study: Any) -> None:
    handle = make_study(9)
    text = page_of(handle)
    (drawing,) = re.findall(
        r'<svg [^>]*aria-label="Scores of 9 trials over the.*?</svg>', text, re.S
    )
    assert "5 complete, 4 pruned. The best is trial" in drawing
    for kind in ("trial", "trial hit"):
        marks = Page(drawing).tags
        trials = [a["data-trial"] for tag, a in marks if tag == "g" and a.get("class") == kind]
        assert sorted(map(int, filter(None, trials))) == list(range(9))
    for trial in handle.trials():
        assert f"trial {trial.number}, {trial.state}, {trial.curve[-1][1]:.2f} at" in drawing
    page = Page(text)
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert len(drawings) == len(SHOWN)
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in drawings)
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")


def test_every_point_has_the_words_of_its_own_trial(make_study: Any) -> None:
    handle = make_study(9)
    text = page_of(handle)
    for record in handle.trials():
        number = record.number
        told = re.findall(rf'data-trial="{number}"><title>([^<]*)</title>', text)
        assert all(words.startswith(f"trial {number}, {record.state}") for words in told)
        for key in ("C_A", "batch_size", "norm_D"):
            assert sum(f": {key} " in words for words in told) == 1
        assert sum(words.endswith(" s") for words in told) == 1  # its bar in the timeline
    parts = Page(text).tags
    ids = [a["id"] for _, a in parts if "id" in a]
    wanted = {a["href"] for tag, a in parts if tag == "use"} | set(re.findall(r"url\((#\w+)", text))
    assert all(ids.count(str(name)[1:]) == 1 for name in wanted)


def test_the_page_and_the_pictures_show_the_same_figures(
    make_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, drawn = make_study(8), []

    def own(handle: StudyHandle, records: Any) -> Plot:
        drawn.append([record.number for record in records])
        figure = new_figure(6.0, 3.0, "its title")
        figure.subplots()
        figure.about = "one function for both"
        return figure

    for name in FIGURES:
        monkeypatch.setitem(FIGURES, name, own)
    text = page_of(handle)
    assert text.count("one function for both") == len(SHOWN)
    assert "its title" not in text  # a section of the page has its own
    assert len(write_figures(handle, tmp_path)) == len(FIGURES)
    assert drawn == [list(range(8))] * (len(SHOWN) + len(FIGURES))


def test_names_values_and_reasons_are_text(make_study: Any) -> None:
    evil = "<script>alert(1)</script><img src=x>"
    handle = make_study(5)
    choices = optuna.distributions.CategoricalDistribution([evil, "b"])
    handle.study.add_trial(
        optuna.trial.create_trial(
            value=9.0,
            params={evil: evil},
            distributions={evil: choices},
            intermediate_values={100: 9.0},
            user_attrs={"reason": evil, "mlflow_run_id": '"><script>'},
        )
    )
    handle = replace(handle, definition=handle.definition.model_copy(update={"name": evil}))
    facts = gather(handle, None, f"stopped: {evil}")
    text = study_page(replace(facts, experiment_id='"><b>'))
    page = Page(text)
    assert evil in page.text
    assert text.count("<script>") == 1  # the page's own
    assert not [a for tag, a in page.tags if tag == "img"]
    plain = [replace(r, run_id="a1") for r in facts.records]
    assert not re.search(r"(?<!\\)<", best_table(replace(facts, records=plain)))


def test_the_page_needs_nothing_from_elsewhere(make_study: Any) -> None:
    text = page_of(make_study(8))
    for _, attributes in Page(text).tags:
        for name in ("src", "href", "action", "srcset"):
            assert str(attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"url\((?!#)|@import|fetch\(|localStorage|XMLHttp|https?://[a-z]", text)


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_a_study_that_has_just_begun_has_a_page(make_study: Any, trials: int, caplog: Any) -> None:
    handle = make_study(trials)
    handle.study.ask()  # running, without a report
    handle.study.enqueue_trial({"lr_g": 1e-3})
    handle.study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED, intermediate_values={100: float("nan")}
        )
    )
    page = Page(page_of(handle, "running"))
    assert "running" in page.text
    assert len(page.rows) == trials + 3
    assert not caplog.records


def test_a_panel_that_fails_hides_no_other(
    make_study: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setitem(PANELS, "Learning curves", lambda facts: 1 / 0)
    page = Page(page_of(make_study(8)))
    assert len(page.rows) == 8
    assert "division by zero" in page.text
    assert "Learning curves can't be shown" in caplog.text


def test_two_hundred_trials_are_a_small_page_at_once(make_study: Any) -> None:
    handle = make_study(200)
    page_of(handle)
    start = time.perf_counter()
    text = page_of(handle)
    assert time.perf_counter() - start < 5.0  # 1.3 s on two slow, busy cores
    assert len(text) < 1_000_000
    assert len(Page(text).rows) == 200


def test_the_page_of_thousands_of_trials_shows_a_selection_and_counts_all(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, whole = make_study(120), make_study(60)
    monkeypatch.setattr("search.study.trials.selected.__defaults__", (60,))
    text = page_of(handle)
    page = Page(text)
    assert len(page.rows) == 60 and len(text) < 1.1 * len(page_of(whole))
    assert "This page shows 60 of 120 trials" in page.text
    assert "120 of 120" in page.text  # trials finished
    best = [str(trial.number) for trial in best_first(handle.trials())[:20]]
    assert [row[1] for row in page.rows[:20]] == best
    assert "This page shows" not in page_of(whole)


def test_the_slices_are_those_of_the_runs_and_read_once(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, store = make_study(4), Store.open()
    parent = store.create_run("made", "made", kind="study", params={}, tags={})
    random = np.random.default_rng(0)
    shared = random.normal(size=(1, 1, 8, 8, 8))
    for trial in handle.trials():
        run = store.create_run("made", f"made-{trial.number:03d}", kind="trial", params={}, tags={})
        made = {n: shared if n == "real_A" else random.normal(size=shared.shape) for n in IMAGES}
        images = {name: torch.tensor(array) for name, array in made.items()}
        handle.study.get_trials(deepcopy=False)[trial.number].user_attrs["mlflow_run_id"] = run.id
        # The run of trial 2 has no picture.
        if trial.number != 2:
            run.log_image(six_images(images), CYCLE_PICTURES, trial.step)
            run.log_metrics({"score/shell_gain": 0.125}, step=trial.step)
    evidence = Evidence(store, parent.id)
    facts = gather(handle, evidence, "finished")
    assert [s.trial for s in facts.slices] == [0]  # of the complete ones; 2 has none
    assert facts.parts[0] == {"score/shell_gain": 0.125}
    page = Page(study_page(facts))
    pictures = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 4
    assert all(str(p).startswith("data:image/webp;base64,") for p in pictures)
    link = f"#/experiments/{parent.experiment_id}/runs/{facts.records[0].run_id}"
    assert any(str(a.get("data-at")).startswith(link) for tag, a in page.tags if tag == "span")
    (row,) = [r for r in page.rows if r[1] == "0"]
    assert "0.125" in row
    monkeypatch.setattr(type(parent), "image", lambda *a: pytest.fail("read again"))
    assert gather(handle, evidence, "finished").slices == facts.slices


def test_a_page_without_slices_says_why(make_study: Any) -> None:
    handle = make_study(4)
    why = "This store has no images of these trials"
    assert why in study_page(gather(handle, None, "finished"))
    assert why not in study_page(gather(handle, None, "running"))


def test_six_images_come_apart_as_they_were_put_together() -> None:
    images = {
        name: torch.full((1, 1, 8, 8, 8), float(number)) for number, name in enumerate(IMAGES)
    }
    images |= {f"real_{d}": torch.linspace(0, 8, 512).reshape(1, 1, 8, 8, 8) for d in "AB"}
    cut = cut_six(six_images(images))
    assert list(cut) == [name for row in CYCLES for name in row]
    greys = {name: int(np.median(cut[name])) for name in cut if not name.startswith("real")}
    order = [name for name in IMAGES if not name.startswith("real")]
    assert sorted(greys, key=lambda name: greys[name]) == order
    assert len({picture.shape for picture in cut.values()}) == 1


def test_what_pruning_saved_is_what_was_not_trained(make_study: Any) -> None:
    facts = gather(make_study(8), None, "finished")
    pruned = [r for r in facts.records if r.state == "pruned"]
    whole = facts.handle.definition.steps
    assert saved_iterations(facts.records, whole) == sum(whole - r.iteration for r in pruned)
    again = replace(facts.records[0], revives=pruned[0].number)
    less = saved_iterations([*facts.records, again], whole)
    assert less == saved_iterations(facts.records, whole) - (whole - pruned[0].iteration)


def test_the_validation_that_counted_has_the_score(make_study: Any) -> None:
    facts = gather(make_study(8), None, "finished")
    for record in facts.records:
        at = judged_iteration(record, facts.handle.definition)
        assert dict(record.curve)[at] == record.score
    other = replace(facts.records[0], score=99.0)  # a mean over seeds
    best = max((p for p in other.curve if p[0] >= 100), key=lambda p: p[1])
    assert judged_iteration(other, facts.handle.definition) == best[0]


def test_the_table_of_the_description_is_replaced_and_leaves_the_rest(make_study: Any) -> None:
    facts = replace(gather(make_study(12), None, "finished"), experiment_id="7")
    table = best_table(facts)
    lines = f"{BEGIN} {table}".splitlines()
    assert len(lines) == 12
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert f"[made-{facts.records[0].number:03d}](#/experiments/7/runs/" in lines[2]
    note = with_paragraph("Somebody's words.\n\nMore.", BEGIN, table)
    assert with_paragraph(note, BEGIN, "| x |") == f"Somebody's words.\n\nMore.\n\n{BEGIN} | x |"


def test_the_page_is_written_as_a_file(make_study: Any, tmp_path: Path) -> None:
    handle, path = make_study(5), tmp_path / "new" / "s.html"
    write_report(handle, Store.open(), path)
    assert len(Page(path.read_text(encoding="utf-8")).rows) == 5
    with pytest.raises(DataError, match="already exists"):
        write_report(handle, Store.open(), path)
    with pytest.raises(UsageError, match=r"must end in \.html"):
        write_report(handle, Store.open(), tmp_path / "s.pdf")
