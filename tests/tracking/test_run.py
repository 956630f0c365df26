from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cyclegan.errors import CycleGANError, DataError
from tracking import Run, Store
from tracking.downsampling import Sample


def history(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.id, name)]


def test_rows_land_on_the_iteration_axis(run: Run, client: MlflowClient) -> None:
    run.log_rows([Sample(5, {"step": 3.0, "loss/a": 0.5}, 1000), Sample(6, {"step": 4.0}, 2000)])
    assert history(client, run, "step") == [(5, 3.0), (6, 4.0)]
    assert history(client, run, "loss/a") == [(5, 0.5)]
    assert run.last_iteration() == 6


def test_more_rows_than_a_request_takes_arrive_whole(run: Run, client: MlflowClient) -> None:
    # 40 rows are just MLflow's 1000 metrics; the mark of the last iteration needs room, too.
    rows = [Sample(i, {f"m{k}": float(i * k) for k in range(25)}, i) for i in range(1, 101)]
    run.log_rows(rows)
    assert history(client, run, "m24") == [(i, 24.0 * i) for i in range(1, 101)]
    assert run.last_iteration() == 100


def test_rows_written_twice_are_there_once(run: Run, client: MlflowClient) -> None:
    rows = [Sample(i, {"step": float(i), "loss/a": 0.1 * i}, 1000 * i) for i in range(1, 60)]
    run.log_rows(rows[:40])
    run.log_rows(rows)  # as after a request whose answer was lost
    assert [step for step, _ in history(client, run, "loss/a")] == list(range(1, 60))


def test_values_that_are_not_finite_leave_no_point(run: Run, client: MlflowClient) -> None:
    run.log_rows([Sample(1, {"step": 1.0, "a": math.nan}, 1), Sample(2, {"a": math.inf}, 2)])
    run.log_metrics({"a": math.nan, "b": 2.0}, step=9)
    assert history(client, run, "a") == []
    assert history(client, run, "b") == [(9, 2.0)]
    assert run.last_iteration() == 2


def test_any_name_of_a_loss_is_accepted(run: Run, client: MlflowClient) -> None:
    run.log_rows([Sample(1, {"loss/my loss: 100 % (ä)": 1.0}, 1)])
    assert len(client.get_run(run.id).data.metrics) == 2


def test_changed_parameters_do_not_raise_but_are_told(run: Run, client: MlflowClient) -> None:
    run.log_params({"steps": 100, "lambdas": {"C_A": [10.0]}, "same": 1})
    run.log_params({"steps": 200, "lambdas": {"C_A": [10]}, "same": 1.0, "new": "x"})
    found = client.get_run(run.id).data
    assert found.params == {"steps": "100", "lambdas.C_A": "10.0", "same": "1", "new": "x"}
    changed = {name: value for name, value in found.tags.items() if name.startswith("changed.")}
    assert changed == {"changed.steps": "100 -> 200"}


def test_more_than_a_hundred_parameters_and_long_values(run: Run, client: MlflowClient) -> None:
    run.log_params({f"p{i}": "x" * 7000 for i in range(120)})
    run.set_tags({f"t{i}": "y" * 9000 for i in range(120)})
    found = client.get_run(run.id).data
    assert len(found.params) == 120
    assert sum(name.startswith("t") for name in found.tags) == 120


def test_pictures_are_found_by_key_and_step(run: Run) -> None:
    assert run.image_steps("cycle") == set()
    picture = np.zeros((8, 9, 3), np.uint8)
    for step in (100, 200):
        run.log_image(picture, "cycle", step)
    run.log_image(picture, "other/one", 300)
    assert run.image_steps("cycle") == {100, 200}
    assert run.image_steps("other/one") == {300}
    with pytest.raises(TypeError, match="uint8"):
        run.log_image(np.zeros((8, 9)), "cycle", 1)  # type: ignore[arg-type]


def test_artifacts_go_in_and_come_back(run: Run, tmp_path: Path) -> None:
    run.log_text("first", "notes/a.txt")
    run.log_text("second", "notes/a.txt")
    assert run.artifact_path("notes/a.txt").read_text() == "second"
    (tmp_path / "model.pt").write_bytes(b"weights")
    run.log_file(tmp_path / "model.pt", "model")
    assert run.artifact_path("model/model.pt").read_bytes() == b"weights"
    assert (run.artifact_path("model") / "model.pt").is_file()
    with pytest.raises(DataError, match=r"no artifact 'model/modle.pt'; did you mean 'model/model"):
        run.artifact_path("model/modle.pt")
    with pytest.raises(DataError, match="no such file"):
        run.log_file(tmp_path / "missing.pt")


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_status_and_reason(
    store: Store, run: Run, client: MlflowClient, status: str
) -> None:
    assert client.get_run(run.id).info.status == "RUNNING"
    run.finish(status, "because")  # type: ignore[arg-type]
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["reason"]) == (status, "because")
    assert found.info.end_time is not None
    store.open_run(run.id)
    assert client.get_run(run.id).info.status == "RUNNING"


def test_a_failing_store_is_told_in_one_line(run: Run, client: MlflowClient) -> None:
    client.delete_run(run.id)
    with pytest.raises(
        CycleGANError, match=rf"run trial-1 \({run.id}\): metrics can't be"
    ) as caught:
        run.log_metrics({"a": 1.0})
    assert "\n" not in str(caught.value)
