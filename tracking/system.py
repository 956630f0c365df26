"""Load and memory of the machine, measured by MLflow's own monitors.

They are sampled when a batch of metrics is sent, with the same steps: MLflow's own thread would
count its samples instead, and write to the store by itself. The prefix makes the user interface
show them on the page "System metrics".
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from cyclegan.numbers import only_finite

log = logging.getLogger(__name__)

_PREFIX = "system/"
_MEGA = 1e6


class SystemMonitor:
    """Measure the load since the last call: CPU, memory of machine and process, and any GPUs."""

    def __init__(self) -> None:
        self._monitors: list[Any] | None = None

    def __call__(self) -> Mapping[str, float]:
        """Return finite values by name; empty if nothing can be measured."""
        try:
            return self._values()
        except Exception as error:  # noqa: BLE001  (drivers fail in many ways; a run must go on)
            log.debug("system metrics: %s", error)
            return {}

    def _values(self) -> dict[str, float]:
        import psutil

        if self._monitors is None:
            self._monitors = _monitors()
        values = {"process_memory_usage_megabytes": psutil.Process().memory_info().rss / _MEGA}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {_PREFIX + name: float(v) for name, v in only_finite(values).items()}


def _monitors() -> list[Any]:
    import psutil
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    psutil.cpu_percent()  # its first answer is always 0
    found: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
    with contextlib.suppress(ImportError, RuntimeError):  # no driver, no GPU
        found.append(GPUMonitor())  # type: ignore[no-untyped-call]
    return found
