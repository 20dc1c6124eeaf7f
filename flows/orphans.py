"""Jobs whose flow run is over: a run that was killed with `kill -9`, or with its machine, could not take them along."""

import re
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.logging import get_run_logger

from pangu import jobs
from pangu.errors import UserError
from pangu.ray_token import headers

RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def stop_orphans() -> list[str]:
    """Stop every living job that belongs to a flow run which has ended; returns the ids of those runs.

    Called as a run begins, because two jobs on one run folder would write the same checkpoints. Jobs of runs that this Prefect
    server does not know are left alone: another installation may use the same cluster.
    """
    try:
        living = jobs.living(jobs.server_address(), headers())
    except UserError as error:  # a flow that needs no cluster can go on without one
        get_run_logger().warning("Jobs left behind were not looked for: %s", error)
        return []
    over = ended({found.group() for found in map(RUN_ID.match, living) if found})
    for owner in over:
        get_run_logger().warning("Stopping the jobs that the flow run %s left behind", owner)
        jobs.stop_all(owner)
    return over


def ended(run_ids: set[str]) -> list[str]:
    """Those of the flow runs that the server knows to have ended."""
    if not run_ids:
        return []
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(one) for one in run_ids]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=wanted, limit=200)
    return sorted(str(run.id) for run in runs if run.state is not None and run.state.is_final())
