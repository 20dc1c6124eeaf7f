"""Flow runs are named after what they do, `retrain photos v3`, unless a person named them."""

import re
from functools import cache
from typing import Any

from coolname.data import config
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

STAR = re.compile(
    r"(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi|omega)"
    r"\d*(-[a-z0-9]+)+"
)
"""What the dashboard's form makes up: a Greek letter, a number, a star."""


def call_run(deed: str, before: str = "") -> None:
    """Name the current flow run, if nobody else did: its name is made up, or the one that it had `before`."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(context.flow_run.id)
        if run.name == before or is_made_up(run.name):
            client.set_flow_run_name(run.id, deed)
            context.flow_run.name = deed


def is_made_up(name: str) -> bool:
    """Whether Prefect's server (two words, `sweet-bullmastiff`) or its dashboard (`psi2-adorn`) invented the name."""
    words = name.split("-")
    return STAR.fullmatch(name) is not None or (len(words) == 2 and set(words) <= invented_words())


@cache
def invented_words() -> frozenset[str]:
    """The words that `coolname` puts together."""
    known: dict[str, Any] = config
    return frozenset(word for each in known.values() for word in each.get("words", ()))
