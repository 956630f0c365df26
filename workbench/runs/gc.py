"""The command `cyclegan runs gc`: show what can go, ask, and delete it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.errors import CycleGANError, UsageError
from cyclegan.locks import exclusive
from tracking import RunInfo
from tracking.artifacts import local_path, orphans, remove_orphan
from tracking.deletion import DeletionResult, carry_out, survey
from tracking.retention import Plan, Rules, StoredRuns, is_large, kind_of, plan, score_of
from viz import units
from viz.console import Console
from viz.text import line_width, table
from workbench.output import Output
from workbench.runs.listing import fitted
from workbench.runs.request import Request, is_own
from workbench.training import INTERRUPTED

if TYPE_CHECKING:
    from tracking import Store


LOCK = ".gc.lock"
"""Name of the lock file beside an embedded store's database: one deletion at a time."""


@dataclass
class Offer:
    """The runs and folders that can go, with their sizes."""

    request: Request
    rules: Rules
    stored: StoredRuns
    plan: Plan
    sizes: dict[str, int | None]
    """Bytes that each run frees, by run id; None or missing if they are not known."""
    menu: list[dict[str, Any]]
    lost: list[tuple[Path, int]]
    """Folders that no run owns, and their bytes."""
    scope: str
    """Note on the experiments that the rules are limited to; empty if there is no limit."""

    @property
    def doomed(self) -> list[tuple[Path, int]]:
        """Folders to delete, and their bytes."""
        return self.lost if self.request.orphans else []

    @property
    def bytes(self) -> int:
        """Bytes that the deletion frees, as far as they are known."""
        runs = sum(self.sizes.get(run.id) or 0 for run, _ in self.plan.free)
        return runs + sum(size for _, size in self.doomed)

    @property
    def summary(self) -> str:
        """Short text such as `12 runs and 1 folder, 3.2 GB`."""
        parts = [units.count(len(self.plan.free), "run")] if self.plan.free else []
        parts += [units.count(len(self.doomed), "folder")] if self.doomed else []
        only = "the large files of " if self.rules.artifacts_only and self.plan.free else ""
        return f"{only}{' and '.join(parts)}, {units.size(self.bytes)}"


@dataclass
class CollectionResult:
    """The result of a deletion."""

    freed: list[DeletionResult] = field(default_factory=list)
    folders: list[tuple[Path, int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    interrupted: bool = False
    failure: CycleGANError | None = None
    """Error of the store that ended the deletion."""

    @property
    def bytes(self) -> int:
        """Bytes freed."""
        return sum(one.bytes for one in self.freed) + sum(size for _, size in self.folders)


Agree = Callable[[Offer], bool]
"""A function that asks whether what is offered may be deleted."""


def collect(
    store: Store, request: Request, *, console: Console, agree: Agree
) -> tuple[Output, CycleGANError | None]:
    """Find what can go, ask, and delete it.

    The exit code is 1 if something could not be deleted. An error of the store ends the work; it is
    returned beside the output of what was done until then.
    """
    offer = make_offer(store, request)
    _refuse_wanted(offer)
    empty = not offer.plan.free and not offer.doomed
    if request.dry_run or empty:
        end = "nothing to delete" if empty else f"would delete {offer.summary}"
        return Output(data=_data(offer, None), text=f"{plan_text(offer)}\n\n{end}"), None
    if not request.yes and not agree(offer):
        return Output(data=_data(offer, CollectionResult()), text="nothing was deleted"), None
    done = _delete(store, console, offer)
    code = INTERRUPTED if done.interrupted else int(bool(done.errors))
    output = Output(data=_data(offer, done), text=_done_text(offer, done), exit_code=code)
    return output, done.failure


def make_offer(store: Store, request: Request) -> Offer:
    """Return what can go now, and change nothing."""
    rules = request.rules(store)
    root = _orphan_root(store)
    lost = orphans(root, lambda: list(store.run_ids())) if root else []
    stored = survey(store)
    found = plan(stored, rules)
    single = {name: plan(stored, one) for name, (_, _, one) in request.menu(rules).items()}
    # Ask a server only about what is to go: a listing takes one request per folder.
    measured = [found] if store.location.is_server else [found, *single.values()]
    sizes = {run.id: _size(store, run, rules) for p in measured for run, _ in p.free}
    if rules.artifacts_only or store.location.is_server:  # drop runs with nothing to free
        found, *rest = (_without_empty(p, sizes, rules) for p in [found, *single.values()])
        single = dict(zip(single, rest, strict=True))
    menu = [
        {
            "rule": name,
            "what": what,
            "option": option,
            "chosen": name in request.chosen,
            "runs": len(single[name].free),
            "bytes": _sum([sizes.get(run.id) for run, _ in single[name].free]),
        }
        for name, (what, option, _) in request.menu(rules).items()
    ]
    if root:
        entry: dict[str, Any] = {"rule": "orphans", "what": "folders that no run owns"}
        entry |= {"option": "--orphans", "chosen": request.orphans}
        menu.append(entry | {"runs": len(lost), "bytes": sum(size for _, size in lost)})
    return Offer(request, rules, stored, found, sizes, menu, lost, _scope(store, rules))


def _orphan_root(store: Store) -> Path | None:
    """Return the folder to search for orphans: an embedded store's, which holds all its runs.

    None without a database: nobody could say which files still have a run.
    """
    location = store.location
    if not store.exists:
        return None
    return local_path(location.artifacts) if location.database and location.artifacts else None


def _size(store: Store, run: RunInfo, rules: Rules) -> int | None:
    files = store.artifacts(run).files()
    if files is None:
        return None
    return sum(f.bytes for f in files if not rules.artifacts_only or is_large(f.path))


def _without_empty(found: Plan, sizes: dict[str, int | None], rules: Rules) -> Plan:
    free = [
        (run, rule)
        for run, rule in found.free
        if sizes.get(run.id) != 0 or not (rules.artifacts_only or run.deleted)
    ]
    return Plan(free=free, kept=found.kept, artifacts_only=found.artifacts_only)


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _scope(store: Store, rules: Rules) -> str:
    if is_own(store) or rules.others:
        return ""
    names = ", ".join(sorted(rules.experiments or ())) or "none"
    return (
        f"others may use {store.location}, too, so the rules see only the studies started here "
        f"({names}); add more with --experiment"
    )


def _refuse_wanted(offer: Offer) -> None:
    """Raise `UsageError` if the user named a run that must stay."""
    for run, reason in offer.plan.kept:
        if run.id in offer.rules.named:
            raise UsageError(f"run {run.name} ({run.id[:8]}) can't be deleted: {reason}")


def _delete(store: Store, console: Console, offer: Offer) -> CollectionResult:
    done = CollectionResult()
    total = len(offer.plan.free) + len(offer.doomed)
    try:
        with _alone(store), console.progress("deleting", total, unit="items") as update:
            for one in carry_out(store, offer.plan, offer.rules):
                done.freed.append(one)
                done.errors += [one.error] if one.error else []
                update(len(done.freed))
            for number, (folder, size) in enumerate(offer.doomed, start=len(done.freed) + 1):
                _delete_folder(store, folder, size, done)
                update(number)
    except KeyboardInterrupt:
        done.interrupted = True
    except CycleGANError as error:
        done.failure = error
    return done


def _delete_folder(store: Store, folder: Path, size: int, done: CollectionResult) -> None:
    root = _orphan_root(store)
    if root is None or folder.name in store.run_ids():
        return
    try:
        remove_orphan(root, folder)
        done.folders.append((folder, size))
    except CycleGANError as error:
        done.errors.append(str(error))


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    database = store.location.database
    if database is None:
        yield
        return
    with exclusive(database.parent / LOCK, f"the store {database} is being tidied; it"):
        yield


def _data(offer: Offer, done: CollectionResult | None) -> dict[str, Any]:
    entries = [
        {**_named(run), "rule": rule, "bytes": offer.sizes.get(run.id)}
        for run, rule in offer.plan.free
    ]
    return {
        "dry_run": offer.request.dry_run,
        "artifacts_only": offer.rules.artifacts_only,
        "rules": offer.menu,
        "free": entries,
        "free_bytes": offer.bytes,
        "kept": [{**_named(run), "why": why} for run, why in offer.plan.kept],
        "orphans": [{"path": str(path), "bytes": size} for path, size in offer.lost],
        "scope": offer.scope or None,
        "deleted": [
            {**_named(one.run), "rule": one.rule, "bytes": one.bytes, "rows": one.rows}
            for one in (done.freed if done else ())
            if not one.kept and not one.error
        ],
        "deleted_folders": [str(path) for path, _ in (done.folders if done else ())],
        "freed_bytes": done.bytes if done else 0,
        "left": [
            {**_named(one.run), "why": one.kept} for one in (done.freed if done else ()) if one.kept
        ],
        "errors": done.errors if done else [],
        "interrupted": bool(done and done.interrupted),
    }


def _named(run: RunInfo) -> dict[str, str]:
    return {"id": run.id, "name": run.name, "experiment": run.experiment}


def _done_text(offer: Offer, done: CollectionResult) -> str:
    gone = [one for one in done.freed if not one.kept and not one.error]
    what = "the large files of " if offer.rules.artifacts_only else ""
    lines = [f"deleted {what}{units.count(len(gone), 'run')}, {units.size(done.bytes)} freed"]
    if done.folders:
        lines[0] = lines[0].replace(",", f" and {units.count(len(done.folders), 'folder')},", 1)
    lines += [
        f"kept: {one.run.name} ({one.run.id[:8]}): {one.kept}" for one in done.freed if one.kept
    ]
    lines += [f"not deleted: {error}" for error in done.errors]
    if gone and not offer.rules.artifacts_only and not any(one.rows for one in gone):
        lines.append(
            "the server keeps their metrics, marked as deleted; to free those, too, run this on "
            "its machine: cyclegan runs gc --deleted --tracking-uri DATABASE"
        )
    if done.interrupted or done.failure:
        lines.append("run the same command again to delete the rest")
    return "\n".join(lines)


# -- The offer as text: rules and what each frees, runs to delete, runs that stay --------------

_RUNS_SHOWN, _KEPT_SHOWN, _FOLDERS_SHOWN = 30, 8, 5


_COLUMNS = ("id", "run", "experiment", "kind", "rule", "state", "score", "size")


def plan_text(offer: Offer) -> str:
    """Return the rules, the runs to delete and the runs that stay as text."""
    parts = [_menu(offer)]
    if offer.plan.free:
        parts.append(_runs(offer))
    if offer.plan.kept:
        parts.append(_kept(offer))
    if offer.lost:
        parts.append(_folders(offer))
    if offer.scope:
        parts.append(offer.scope)
    return "\n\n".join(parts)


def _menu(offer: Offer) -> str:
    rows = [
        [
            "yes" if entry["chosen"] else "",
            entry["what"],
            str(entry["runs"]),
            units.size(entry["bytes"]) if entry["runs"] else "",
            entry["option"],
        ]
        for entry in offer.menu
    ]
    return table(
        ["chosen", "what", "runs", "frees", "option"],
        rows,
        words={"chosen", "what", "option"},
    )


def _runs(offer: Offer) -> str:
    largest = sorted(offer.plan.free, key=lambda item: -(offer.sizes.get(item[0].id) or 0))
    cells = [
        {
            "id": run.id[:8],
            "run": run.name,
            "experiment": run.experiment,
            "kind": kind_of(run),
            "rule": rule,
            "state": offer.stored.state(run),
            "score": units.score(score_of(run)),
            "size": units.size(offer.sizes.get(run.id)),
        }
        for run, rule in largest[:_RUNS_SHOWN]
    ]
    text = fitted(_COLUMNS, cells, line_width(sys.stdout))
    more = len(largest) - _RUNS_SHOWN
    return text + (
        f"\nand {units.count(more, 'smaller run')} (--json lists all)" if more > 0 else ""
    )


def _kept(offer: Offer) -> str:
    kept = offer.plan.kept
    lines = [f"  {run.name} ({run.id[:8]}): {why}" for run, why in kept[:_KEPT_SHOWN]]
    if len(kept) > _KEPT_SHOWN:
        lines.append(f"  and {len(kept) - _KEPT_SHOWN} more")
    return "\n".join(["kept whatever the rules say:", *lines])


def _folders(offer: Offer) -> str:
    lines = [f"  {path}, {units.size(size)}" for path, size in offer.lost[:_FOLDERS_SHOWN]]
    if len(offer.lost) > _FOLDERS_SHOWN:
        lines.append(f"  and {len(offer.lost) - _FOLDERS_SHOWN} more")
    warning = "folders that no run of this database owns; another database may keep its runs there:"
    return "\n".join([warning, *lines])
