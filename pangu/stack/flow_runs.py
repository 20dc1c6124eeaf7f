"""Flow runs that ended with their stack: Prefect still believes in them, and they hold concurrency slots."""

from pangu.stack.model import Stack
from pangu.stack.prefect_api import prefect_api

UNDER_WAY = ("RUNNING", "PENDING", "CANCELLING")


def settle(stack: Stack, state: str, message: str) -> None:
    """Give every run under way the final `state` and free all concurrency slots; for when no run can be alive."""
    with prefect_api(stack) as api:
        asked = {"flow_runs": {"state": {"type": {"any_": list(UNDER_WAY)}}}}
        for run in api.post("/flow_runs/filter", json=asked).raise_for_status().json():
            final = {"type": state, "message": message}
            api.post(f"/flow_runs/{run['id']}/set_state", json={"state": final, "force": True}).raise_for_status()
        for limit in api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json():
            if limit["active_slots"]:
                api.patch(f"/v2/concurrency_limits/{limit['id']}", json={"active_slots": 0}).raise_for_status()
