"""The tables of `rollback.py`, in Markdown, from the records of finished trainings.

All intervals are 95 %, those of shares are Wilson's. McNemar's exact test compares arms with `off`
draw by draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

Record = dict[str, Any]
TOLERANCE = 0.5
"""Loss against its twin, in dB, up to which a training counts as good as undisturbed."""
JUDGED = ("last", "kept")


def report_faults(records: Sequence[Record]) -> str:
    """Print one line per scenario and arm, without trainings whose twin is missing."""
    twins = {r["seed"]: r for r in records if (r["scenario"], r["arm"]) == ("healthy", "off")}
    records = [r for r in records if r["seed"] in twins]
    if not records:
        return "no twin (scenario healthy, arm off) has been trained yet"
    lines = [
        f"{len(twins)} seeds, {records[0]['length']} steps. Twins: "
        + ", ".join(f"{_spread([t[j]['psnr'] for t in twins.values()])} ({j})" for j in JUDGED)
        + f"; unprocessed {records[0]['input']['psnr']:.2f} dB.",
        "",
        *_heading(
            *("scenario", "arm", "last within 0.5 dB", "median / dB", "kept within 0.5 dB"),
            *("median / dB", "extra iterations", "rollbacks (most)", "gave up"),
        ),
    ]
    arms = list(dict.fromkeys(r["arm"] for r in records))
    scenarios = list(dict.fromkeys(r["scenario"] for r in records))
    for scenario in scenarios:
        for arm in arms:
            group = [r for r in records if (r["scenario"], r["arm"]) == (scenario, arm)]
            lines += [_fault_line(scenario, arm, group, twins)] if group else []
    for arm in arms:
        group = [r for r in records if r["arm"] == arm and r["scenario"] != "healthy"]
        lines += [_fault_line("all but healthy", arm, group, twins)] if group else []
    lines += ["", "False alarms, healthy trainings that were rolled back: " + _alarms(records)]
    return "\n".join(lines)


def _fault_line(scenario: str, arm: str, group: list[Record], twins: dict[int, Record]) -> str:
    cells = [scenario, arm]
    for judged in JUDGED:
        change = [r[judged]["psnr"] - twins[r["seed"]][judged]["psnr"] for r in group]
        good = sum(c >= -TOLERANCE for c in change)
        cells += [share(good, len(group)), f"{np.median(change):+.2f}"]
    # A training that gave up has spent less; that does not count in its favour.
    spent = [r["iteration"] / r["length"] - 1 for r in group if not r["gave_up"]]
    cells.append(f"{np.mean(spent):.0%}" if spent else "-")
    return _line(*cells, _rollbacks(group), str(sum(r["gave_up"] for r in group)))


def _alarms(records: Sequence[Record]) -> str:
    found = []
    for arm in dict.fromkeys(r["arm"] for r in records if r["arm"] != "off"):
        group = [r for r in records if (r["scenario"], r["arm"]) == ("healthy", arm)]
        if group:
            found.append(f"{arm} {share(sum(r['rollbacks'] > 0 for r in group), len(group))}")
    return ", ".join(found) + "." if found else "not trained yet."


def usable(record: Record, judged: str) -> bool:
    """Return True if a generator passed the gates and beats the unprocessed scan."""
    result: bool = (
        record[judged]["gate"] is None and record[judged]["psnr"] > record["input"]["psnr"]
    )
    return result


def report_natural(records: Sequence[Record]) -> str:
    """Print one line per arm, then the comparison with `off`."""
    if not records:
        return "nothing has been trained yet"
    arms = list(dict.fromkeys(r["arm"] for r in records))
    table = {arm: {r["seed"]: r for r in records if r["arm"] == arm} for arm in arms}
    lines = [
        f"{records[0]['length']} iterations each; "
        f"unprocessed {records[0]['input']['psnr']:.2f} dB.",
        "",
        *_heading(
            *("arm", "last usable", "median / dB", "kept usable", "median / dB"),
            *("rollbacks (most)", "gave up"),
        ),
    ]
    for arm in arms:
        group, cells = list(table[arm].values()), [arm]
        for judged in JUDGED:
            cells.append(share(sum(usable(r, judged) for r in group), len(group)))
            cells.append(f"{np.median([r[judged]['psnr'] for r in group]):.2f}")
        lines.append(_line(*cells, _rollbacks(group), str(sum(r["gave_up"] for r in group))))
    if "off" not in table:
        return "\n".join(lines)
    heading = ("against off", "judged", "saved", "lost", "p (McNemar, exact)", "median change / dB")
    lines += ["", *_heading(*heading)]
    for arm in arms[1:] if arms[0] == "off" else [a for a in arms if a != "off"]:
        for judged in JUDGED:
            lines.append(_paired_line(arm, judged, table["off"], table[arm]))
    return "\n".join(lines)


def _paired_line(arm: str, judged: str, off: dict[int, Record], other: dict[int, Record]) -> str:
    pairs = [(off[seed], other[seed]) for seed in off if seed in other]
    verdicts = [(usable(a, judged), usable(b, judged)) for a, b in pairs]
    saved, lost = verdicts.count((False, True)), verdicts.count((True, False))
    p = binomtest(saved, saved + lost).pvalue if saved + lost else 1.0
    change = [b[judged]["psnr"] - a[judged]["psnr"] for a, b in pairs]
    median = f"{np.median(change):+.2f}" if change else "-"
    return _line(arm, judged, str(saved), str(lost), f"{p:.3g}", median)


def share(successes: int, count: int) -> str:
    """Return a share as text, such as `4/5 (38 to 96 %)`."""
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return f"{successes}/{count} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds, the measure for any difference."""
    deviation = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation} dB"


def _rollbacks(group: Sequence[Record]) -> str:
    counts = [r["rollbacks"] for r in group]
    return f"{np.median(counts):g} ({max(counts)})"


def _heading(*names: str) -> tuple[str, str]:
    return _line(*names), _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
