"""The options of `cyclegan runs gc`, and the retention rules that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cyclegan.errors import UsageError
from tracking import project_root
from tracking.database import DATABASE_NAME
from tracking.retention import Rules

if TYPE_CHECKING:
    from tracking import Store

_DAYS, _BEST = 30.0, 5
_RUNS_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of the command line."""

    runs: tuple[str, ...] = ()
    deleted: bool = False
    failed_days: float | None = None
    pruned: bool = False
    keep_best: int | None = None
    orphans: bool = False
    artifacts_only: bool = False
    experiments: tuple[str, ...] = ()
    dry_run: bool = False
    yes: bool = False

    @property
    def chosen(self) -> frozenset[str]:
        """Names of the rules that apply: those chosen, else `deleted` and `failed`."""
        given = {
            "named": bool(self.runs),
            "deleted": self.deleted,
            "failed": self.failed_days is not None,
            "pruned": self.pruned,
            "worse": self.keep_best is not None,
            "orphans": self.orphans,
        }
        names = frozenset(name for name, is_given in given.items() if is_given)
        return names or frozenset({"deleted", "failed"})

    def rules(self, store: Store) -> Rules:
        """Return the retention rules.

        In a store that others may use, too, they see only the studies that were started here,
        unless experiments are named.

        Errors: `DataError` for unknown names, `UsageError` for ambiguous ones.
        """
        named = [store.find_experiment(name, "all").name for name in self.experiments]
        scope: frozenset[str] | None = frozenset(named) or None
        if scope is None and not is_own(store):
            from search.study.study import known_studies

            studies = known_studies()
            scope = frozenset(e.name for e in store.experiments("all") if e.made_as in studies)
        chosen = self.chosen
        return Rules(
            named=frozenset(_named(store, text) for text in self.runs),
            deleted="deleted" in chosen,
            failed_days=self.days if "failed" in chosen else None,
            pruned=self.pruned,
            keep_best=self.keep_best,
            artifacts_only=self.artifacts_only,
            experiments=scope,
            others=bool(self.experiments),
        )

    @property
    def days(self) -> float:
        """Days after which a failed run can go."""
        return _DAYS if self.failed_days is None else self.failed_days

    @property
    def best(self) -> int:
        """Number of a study's best trials that stay."""
        return self.keep_best or _BEST

    def menu(self, rules: Rules) -> Mapping[str, tuple[str, str, Rules]]:
        """Return each rule by name: its text, its option, and `Rules` with that rule alone."""
        none = replace(
            rules, named=frozenset(), deleted=False, failed_days=None, pruned=False, keep_best=None
        )
        days, best = f"{self.days:g}", self.best
        menu = {
            "deleted": ("deleted in MLflow's interface", "--deleted", replace(none, deleted=True)),
            "failed": (
                f"failed, killed or interrupted over {days} days ago",
                f"--failed-days {days}",
                replace(none, failed_days=self.days),
            ),
            "pruned": ("pruned trials", "--pruned", replace(none, pruned=True)),
            "worse": (
                f"all but the {best} best trials of each study",
                f"--keep-best {best}",
                replace(none, keep_best=best),
            ),
        }
        if rules.named:
            named = replace(none, named=rules.named)
            menu = {"named": ("the runs you named", "RUN...", named)} | menu
        return menu


def is_own(store: Store) -> bool:
    """Return True if this is the project's own store, not one that others may use, too."""
    return store.location.database == project_root() / "mlruns" / DATABASE_NAME


def _named(store: Store, text: str) -> str:
    found = store.find_runs(text, stage="all")
    if len(found) > 1:
        ids = ", ".join(run.id[:8] for run in found[:_RUNS_NAMED])
        more = ", ..." if len(found) > _RUNS_NAMED else ""
        raise UsageError(f"{text}: {len(found)} runs have that name; give an id: {ids}{more}")
    return found[0].id
