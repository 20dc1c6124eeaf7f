"""`python -m pangu.stack.ray_start ARGUMENTS`: `ray start`, with a dashboard of those parts that a stack has a use for.

Each part of Ray 2.60's dashboard is a process of its own, and there is no switch for a single one: 47 MB for curves that need
Prometheus and Grafana, 22 for Ray Data, which nothing here uses, and 22 for the state of Ray Train's runs, which is off.
"""

import os
import sys
from typing import Any

NEEDED = ("EventHead", "JobHead", "NodeHead", "ReportHead", "ServeHead", "StateHead", "UsageStatsHead")
NEEDLESS = ("DataHead", "MetricsHead", "TrainHead")
ASKED_FOR = ("RAY_GRAFANA_HOST", "RAY_PROMETHEUS_HOST", "RAY_TRAIN_ENABLE_STATE_TRACKING")
"""Whoever sets one of them has a use for the others, too."""


def main() -> None:
    """Raises SystemExit with what `ray start` ends with."""
    from ray._private import ray_constants, services
    from ray.scripts.scripts import main as ray

    started = services.start_ray_process

    def with_needed_modules(command: list[str], process_type: str, *more: Any, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            command = [*command, f"--modules-to-load={','.join(NEEDED)}"]
        return started(command, process_type, *more, **options)

    if not any(os.environ.get(name) for name in ASKED_FOR):
        services.start_ray_process = with_needed_modules
    sys.argv = ["ray", "start", *sys.argv[1:]]
    ray()


if __name__ == "__main__":
    main()
