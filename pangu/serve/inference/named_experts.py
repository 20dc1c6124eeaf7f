"""Which experts a request names, and that the release has them."""

from collections.abc import Sequence
from dataclasses import replace

from pangu.config import MIDDLE_ROLES, ROLES, Role
from pangu.serve.inference.messages import Job, RequestError

EVERY: tuple[Role, ...] = (*ROLES, *MIDDLE_ROLES)
"""Whatever experts a release may have. What names all of them means those that there are."""


def named_experts(job: Job, roles: Sequence[Role]) -> Job:
    """The request with what it says of all experts said of those of the release.

    Raises:
        RequestError: it names one that the release does not have.
    """
    intervals, adapters = job.guidance_intervals, [each.own for each in job.loras]
    if set(intervals) == set(EVERY):
        intervals = {role: interval for role, interval in intervals.items() if role in roles}
    asked = {
        "num_inference_steps": job.role_steps,
        "guidance_scale": job.guidance_between,
        "guidance_interval": intervals,
        "lora_scales": job.lora_scales,
        **{f"loras.{place}": own for place, own in enumerate(adapters)},
    }
    for field, named in asked.items():
        for role in named:
            if role not in roles:
                param = "loras" if field.startswith("loras") else f"{field}.{role}"
                known = ", ".join(roles)
                raise RequestError(
                    f"Unknown parameter: '{field}.{role}'; the experts of this model are {known}.", param
                )
    return replace(job, guidance_intervals=intervals)
