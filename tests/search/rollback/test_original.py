"""The original's dynamic optimizer: rules as tables, moves, and its known drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from cyclegan import Config, Trainer, parse_config
from cyclegan.config import HPOptimizer
from cyclegan.history import MetricHistory
from cyclegan.hparams import HParams
from search.rollback import original
from search.rollback.original import Original, move_lambdas, move_rates
from search.rollback.policy import Fault, Retry

SETTINGS = HPOptimizer(enabled=True, policy="original", warmup=0)
LAMBDAS = {"G_A": 10, "G_B": 10, "D_A": 1, "D_B": 1, "C_A": 100, "C_B": 100, "I_A": 0, "I_B": 0}
TWO_TERMS = {
    "lambdas": LAMBDAS | {"G_A": [6, 24], "D_B": [5, 0], "C_A": 40, "C_B": 40, "I_A": 20},
    "lossFuncs": {"G_A": ["lsgan", "bce"], "D_B": ["bce", "lsgan"]},
    "lossNames": {"G_A": ["first", "second"], "D_B": ["third", "off"]},
}


def parts(*pieces: tuple[int, float]) -> np.ndarray:
    """Return the values of the steps, piece by piece."""
    return np.concatenate([np.full(count, float(value)) for count, value in pieces])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hparams(**changes: Any) -> HParams:
    return HParams.from_config(parse_config({"data_A": "a", "data_B": "b"} | changes))


def images(channels: int = 1) -> dict[str, torch.Tensor]:
    """Translations at 2x that preserve the contrast; the second channel of B does not matter."""
    a = torch.randn(2, 1, 8, 10, 12, generator=seeded())
    b = torch.nn.functional.interpolate(a, scale_factor=2, mode="trilinear")
    b = torch.cat([b, -9 * b], dim=1)[:, :channels]
    return {"real_A": a, "fake_B": b, "real_B": b, "fake_A": a}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("flipped", "points"),
    [((), 0.0), (("fake_B",), 0.5), (("fake_A",), 0.5), (("fake_B", "fake_A"), 20.0)],
)
def test_flip_points(flipped: tuple[str, ...], points: float, channels: int) -> None:
    shown = images(channels)
    assert original.flip_points(shown | {name: -shown[name] for name in flipped}) == points


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_flat_and_undefined_images_get_no_points(value: float) -> None:
    shown = images()
    assert original.flip_points(shown | {"fake_B": torch.full((2, 1, 16, 20, 24), value)}) == 0


@pytest.mark.parametrize(
    ("values", "points"),
    [
        (parts((400, 1)), 0.0),
        (parts((200, 9), (100, 2), (100, 1)), 0.0),
        (parts((100, 1), (100, 1.5)), 0.5),
        (parts((100, 1), (20, 6), (80, 0)), 1.2),  # 6 / 3 - 1, and a mean of 1.2
        (parts((100, 1), (20, 3.9), (80, 0)), 0.0),
        (parts((80, 1), (20, 30), (100, 1)), 30 / 20.4 - 1),  # the jump lies in the first half
        (parts((300, 25)), 20.0),
        (parts((50, 25)), 20.0),  # too young: nothing to compare with
        (parts((100, 1), (50, 10)), 10 / 3 - 1 + 5.5 - 1),  # compared with the first 50 steps
        (parts((100, -2), (100, -1)), 0.0),
        (parts((100, 0), (100, 1)), 0.0),
        (parts((199, 1), (1, math.nan)), 0.0),
        (parts((100, math.nan), (100, 1)), 0.0),
        (parts((199, 1), (1, math.inf)), math.inf),
        (parts((0, 1)), 0.0),
    ],
)
def test_loss_points(values: np.ndarray, points: float) -> None:
    found = original.loss_points({"G_A": values, "C_B": parts((200, 1))})
    assert found["C_B"] == 0
    assert found["G_A"] == pytest.approx(points)


@pytest.mark.parametrize(
    ("name", "values", "points"),
    [
        ("C_A", parts((50, 0.1), (400, 0.27)), 0.0),
        ("C_A", parts((50, 0.1), (400, 0.29)), 20.0),
        ("G_A", parts((50, 0.1), (400, 0.29)), 0.0),
        ("C_B", parts((300, 1), (1, 0), (300, 1)), 0.0),  # one low step is no level
        ("C_B", parts((300, 0.3), (299, 1), (1, math.nan)), 0.0),
        ("C_B", parts((10, 1)), 0.0),
    ],
)
def test_drift_points(name: str, values: np.ndarray, points: float) -> None:
    assert original.drift_points({"C": parts((9, 1)), name: values}) == points


def truth(fooled: float, missed: float, name: str = "D_A") -> dict[str, np.ndarray]:
    """Shares of generated patches taken for real and of real ones for generated, last 100 steps."""
    cells = {"TP": 1 - missed, "FN": missed, "FP": fooled, "TN": 1 - fooled}
    return {f"{name}_{cell}": parts((200, 7), (100, 50 * v)) for cell, v in cells.items()}


@pytest.mark.parametrize(
    ("fooled", "missed", "generator", "discriminator", "accuracy"),
    [
        (0.39, 0.2, True, False, 0.705),
        (0.41, 0.2, False, False, 0.695),
        (0.41, 0.41, False, True, 0.59),
        (0.1, 0.9, True, True, 0.5),
    ],
)
def test_direction_of_the_adversaries(
    fooled: float, missed: float, generator: bool, discriminator: bool, accuracy: float
) -> None:
    table = truth(fooled, missed)
    assert original.directed({}, table) == {"G_A": generator, "D_A": discriminator}
    assert original.mean_accuracy(table) == pytest.approx(accuracy)
    both = table | truth(0, 0, "D_B")
    assert original.mean_accuracy(both) == pytest.approx((accuracy + 1) / 2)


@pytest.mark.parametrize(
    ("slope_A", "slope_B", "up_A", "up_B"),
    [
        (-2.0, -1.0, False, True),
        (-1.0, -2.0, True, False),
        (1.0, -1.5, True, False),
        (2.0, 1.0, True, True),
        (math.nan, -1.0, False, False),
    ],
)
def test_direction_of_the_cycles(slope_A: float, slope_B: float, up_A: bool, up_B: bool) -> None:
    time = np.arange(200)
    losses = {  # earlier steps do not count
        "C_A": np.concatenate([99 * slope_B * time, slope_A * time]),
        "C_B": np.concatenate([99 * slope_A * time, slope_B * time]),
        "G_A": time,
    }
    assert original.directed(losses, {}) == {"C_A": up_A, "C_B": up_B}


@pytest.mark.parametrize(
    ("value", "factor", "adjusted"),
    [(10, 0.3, 13.13), (10, -0.3, 7.07), (0, 0, 0.1), (0.1, -0.9, 0.1), (99, 0.2, 100)],
)
def test_adjust(value: float, factor: float, adjusted: float) -> None:
    assert original.adjust(value, factor) == pytest.approx(adjusted)


def lambdas_of(values: HParams) -> dict[str, float]:
    return {name: v for name, v in values.flat().items() if name.startswith("lambdas.")}


def test_a_move_keeps_the_sum_leaves_off_what_is_off_and_steers_a_groups_terms_alike() -> None:
    first = hparams(**TWO_TERMS)
    up = {"G_A": True, "D_A": False}
    moved = move_lambdas(first, first, up, seeded(), reach=0.0, direct=0.3)
    assert sum(moved.values()) == pytest.approx(sum(lambdas_of(first).values()))
    assert "lambdas.I_B" not in moved
    assert "lambdas.D_B.1" not in moved
    unit, terms = sum(lambdas_of(first).values()) / 200, len(moved)
    raised = [200 / (200 + 0.1 * terms) * (v / unit + 0.1) for v in (6, 24, 20, 1)]
    others = moved["lambdas.I_A"] / raised[2]  # identity lambdas are only scaled
    assert moved["lambdas.G_A.0"] == pytest.approx((raised[0] + 0.1) * 1.3 * others)
    assert moved["lambdas.G_A.1"] == pytest.approx((raised[1] + 0.1) * 1.3 * others)
    assert moved["lambdas.D_A"] == pytest.approx((raised[3] + 0.1) * 0.7 * others)


def test_random_moves_reach_as_far_as_told_and_repeat_with_their_seed_alone() -> None:
    first = hparams()
    ratios = []
    for seed in range(1000):
        moved = move_lambdas(first, first, {}, seeded(seed), reach=0.3, direct=0.0)
        ratios.append(moved["lambdas.G_A"] / moved["lambdas.G_B"])
    assert 0.85 / 1.15 <= min(ratios) < 1 / 1.31
    assert 1.31 < max(ratios) <= 1.15 / 0.85
    torch.manual_seed(1)
    again = move_lambdas(first, first, {}, seeded(999), reach=0.3, direct=0.0)
    assert again["lambdas.G_A"] / again["lambdas.G_B"] == ratios[-1]


def test_moves_do_not_depend_on_the_sum_of_the_lambdas() -> None:
    first, tenth = (
        hparams(lambdas=LAMBDAS),
        hparams(lambdas={n: v / 10 for n, v in LAMBDAS.items()}),
    )
    up = {"C_A": True, "G_B": False}
    moved = move_lambdas(first, first, up, seeded(), reach=1.0, direct=0.3)
    small = move_lambdas(tenth, tenth, up, seeded(), reach=1.0, direct=0.3)
    assert small == pytest.approx({name: value / 10 for name, value in moved.items()})


@pytest.mark.parametrize(("skew", "g", "d"), [(0, 0.5, 1), (1, 1, 0.5), (0.5, 0.625, 0.625)])
def test_rates_go_halfway_to_what_the_skew_says(skew: float, g: float, d: float) -> None:
    first = hparams(lr_g=2e-4, lr_d=1e-4)
    assert move_rates(first, first, skew, 0) == pytest.approx({"lr_g": 2e-4 * g, "lr_d": 1e-4 * d})


def test_rates_decay_with_the_step() -> None:
    first = current = hparams()
    seen = {}
    for step in range(0, 30_001, 100):
        current = current.changed(move_rates(current, first, 0.7, step))
        seen[step] = current
    for name in ("lr_g", "lr_d"):
        late, early = getattr(seen[30_000], name), getattr(seen[10_000], name)
        assert late / early == pytest.approx(0.99998**20_000)


def history_of(config: Config, losses: dict[str, np.ndarray], accuracy: float) -> MetricHistory:
    """Return a history of 200 steps with these losses, 1 for all others."""
    columns = {"loss/G_total": parts((200, 1e6))}
    for group in original.SIX:
        for term in config.terms(group):
            columns[f"loss/{term.name}"] = losses.get(term.name, parts((200, 1)))
    for name in ("D_A", "D_B"):
        for cell in ("TP", "TN", "FP", "FN"):
            value = accuracy if cell[0] == "T" else 1 - accuracy
            columns[f"truth/{name}_{cell}"] = parts((200, 100 * value))
    history, count = MetricHistory(), torch.arange(1, 201)
    state = {"names": list(columns), "values": torch.tensor(np.array([*columns.values()]).T)}
    state |= {"iterations": count, "steps": count, "accepted": torch.ones(200, dtype=torch.bool)}
    history.load_state_dict(state)
    return history


@pytest.mark.parametrize(
    ("losses", "kind", "networks"),
    [
        ({}, None, ()),
        ({"second": parts((100, 1), (100, 2.5))}, None, ()),  # beside the first term: 1.75-fold
        ({"second": parts((100, 1), (100, 3.5))}, "loss", ("G_A",)),
        ({"off": parts((200, 99))}, None, ()),  # its lambda is 0
        ({"C_A_l1": parts((20, 0.1), (80, 1), (100, 1))}, "drift", ("C_A", "C_B")),
        ({"third": parts((100, 1), (100, math.nan))}, None, ()),
    ],
)
def test_judge_names_what_gives_most_points(
    tiny: dict[str, Any], losses: dict[str, np.ndarray], kind: str | None, networks: tuple[str, ...]
) -> None:
    config = parse_config(tiny | TWO_TERMS)
    trainer = Trainer(config)
    trainer.history = history_of(config, losses, 0.7)
    fault = Original(SETTINGS).judge(trainer, young=False)
    assert (fault.kind if fault else None) == kind
    if fault:
        assert fault.networks == networks
        assert fault.severity > 1
        assert f"{fault.severity:.3g} points" in fault.reason
        assert kind in fault.reason
        assert Original(SETTINGS).judge(trainer, young=True) is None


def retry(fault: Fault, values: HParams, first: HParams, attempt: int = 1) -> Retry:
    return Retry(
        fault=fault,
        attempt=attempt,
        last=False,
        found=300,
        step=0,
        base=values,
        current=values,
        initial=first,
    )


def test_a_retry_moves_by_half_at_random_and_by_30_percent_as_the_evidence_says() -> None:
    policy, first = Original(SETTINGS), hparams()
    policy.load_state_dict({"up": {"G_A": True, "G_B": False}})
    asked = retry(Fault(kind="loss", reason="", severity=2.0), first, first)
    moves = [policy.move(asked, seeded(n)).changes for n in range(300)]
    random = [move["lambdas.D_A"] / move["lambdas.D_B"] for move in moves]
    assert 2.2 < max(random) < 1.5 / 0.5
    steered = [move["lambdas.G_A"] / move["lambdas.G_B"] for move in moves]
    assert np.exp(np.mean(np.log(steered))) == pytest.approx(1.3 / 0.7, rel=0.05)
    skews = [2 * move["lr_g"] / first.lr_g - 1 for move in moves]
    assert np.mean(skews) == pytest.approx(1 / 3, rel=0.1)  # of the square of U(0, 1)


def test_a_real_training_is_judged_and_moved(config: Config) -> None:
    policy, trainer = Original(SETTINGS), Trainer(config)
    trainer.fit()
    first = HParams.from_config(config)
    trainer.set_hparams(policy.healthy(trainer, seeded()))
    between = trainer.hparams
    trainer.images |= {"fake_B": -trainer.images["real_A"], "fake_A": -trainer.images["real_B"]}
    fault = policy.judge(trainer, young=False)
    assert fault
    assert fault.kind == "flip"
    move = policy.move(retry(fault, between, first), seeded())
    resumed = Original(SETTINGS)
    resumed.load_state_dict(policy.state_dict())
    assert resumed.move(retry(fault, between, first), seeded()) == move
    trainer.set_hparams(move.changes)
    for values in (between, trainer.hparams):
        assert sum(lambdas_of(values).values()) == pytest.approx(sum(lambdas_of(first).values()))
        moved = lambdas_of(values)
        assert all(moved[name] > 0 for name, weight in lambdas_of(first).items() if weight)
        assert 0 <= values.lr_g <= first.lr_g
        assert 0 <= values.lr_d <= first.lr_d
        assert values != first
    assert trainer.model.optimizer_G.param_groups[0]["lr"] == trainer.hparams.lr_g
    again = policy.move(retry(fault, between, first, attempt=2), seeded())
    assert between.changed(again.changes) == first


def test_healthy_trainings_are_left_alone_only_before_the_warm_up_is_over(config: Config) -> None:
    trainer = Trainer(config)
    trainer.history = history_of(config, {}, 0.7)
    policy = Original(HPOptimizer(policy="original"))
    trainer.step = 200
    assert policy.healthy(trainer, seeded()) == {}
    trainer.step = 300
    at_work = {name for name, value in HParams.from_config(config).flat().items() if value}
    assert set(policy.healthy(trainer, seeded())) == at_work


def test_after_many_failures_it_falls_back_further() -> None:
    assert [Original(SETTINGS).further_back(n) for n in (1, 10, 11, 13)] == [0, 0, 100, 300]


def test_fifty_healthy_judgements_turn_the_balance_of_the_lambdas_around(
    tiny: dict[str, Any],
) -> None:
    config = parse_config(tiny | {"lambdas": LAMBDAS})
    policy, trainer, random = Original(SETTINGS), Trainer(config), np.random.default_rng(0)
    moves, balance = seeded(), [10.0]
    for step in range(300, 5300, 100):
        fall = 0.3 + 0.5 * np.exp(-np.arange(step - 200, step) / 1500)
        cycles = {f"C_{d}_l1": fall + 0.02 * random.normal(size=200) for d in "AB"}
        trainer.step, trainer.history = step, history_of(config, cycles, accuracy=0.75)
        trainer.set_hparams(policy.healthy(trainer, moves))
        now = {group: weights[0] for group, weights in trainer.hparams.lambdas.items()}
        balance.append((now["C_A"] + now["C_B"]) / (now["G_A"] + now["G_B"]))
        assert policy.judge(trainer, young=False) is None
    assert balance[10] < 3
    assert balance[-1] < 0.2
