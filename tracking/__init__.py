"""Tracking: every run, metric, picture and volume in an MLflow store.

The only room that imports mlflow.

```
store = Store.open()                                   # tracking/store.py: the project's own store
run = store.create_run("my study", "trial 3", kind="trial", params={...}, tags={...})
trainer = Trainer(config, [TrackingCallback(run)])     # tracking/callback.py: tells all of it
serve(store)                                           # tracking/ui.py: look at it in a browser
```
Importing this is quick: mlflow and torch are loaded when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracking.database import project_root
from tracking.registry import Challenge, ModelVersion
from tracking.run import Run
from tracking.run_lookup import ExperimentInfo, RunInfo
from tracking.store import Store
from tracking.ui import serve

if TYPE_CHECKING:
    from tracking.callback import TrackingCallback

__all__ = [
    "Challenge",
    "ExperimentInfo",
    "ModelVersion",
    "Run",
    "RunInfo",
    "Store",
    "TrackingCallback",
    "project_root",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name == "TrackingCallback":
        from tracking.callback import TrackingCallback

        return TrackingCallback
    raise AttributeError(f"module 'tracking' has no attribute '{name}'")
