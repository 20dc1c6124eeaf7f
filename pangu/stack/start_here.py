"""What an empty Prefect server shows as its first artifact: what to press, and what comes of it."""

from pangu.stack.model import Stack
from pangu.stack.prefect_api import prefect_api

KEY = "start-here"
TEXT = """## PanGu: start here

From pictures with captions to a served pair of text-to-image generators:

1. **Pictures.** `pangu new FOLDER` makes a card of them. `openmoji` is there already.
2. **Retrain.** [Deployments](/deployments) → `retrain-pair` → *Run* → *Custom run*: choose the card, press *Submit*.
3. **Look.** [Runs](/runs) shows the stages; each run's *Artifacts* show what was dropped, losses, samples and the gate's numbers.
4. **Draw.** The artifact `links` of a run that is over leads to the served pair and its page to draw with.

New data, or every week: switch on what waits under [Automations](/automations) and at the schedule of `retrain-pair`.
"""


def write_start_here(server: Stack | str) -> None:
    """Create the artifact, unless the newest of its key says the same."""
    with prefect_api(server) as api:
        asked = {"artifacts": {"key": {"any_": [KEY]}}, "sort": "CREATED_DESC", "limit": 1}
        found = api.post("/artifacts/filter", json=asked).raise_for_status().json()
        if found and found[0]["data"] == TEXT:
            return
        body = {
            "key": KEY,
            "type": "markdown",
            "data": TEXT,
            "description": "What to press first, and what comes of it",
        }
        api.post("/artifacts/", json=body).raise_for_status()
