"""A few seeded faults on the running stack while images are fetched; `make chaos` does a hundred to the whole main job."""

from pathlib import Path
from random import Random

from pangu.stack import Stack
from pangu.storage import Home
from tests.faults.chaos.campaign import Campaign
from tests.faults.chaos.faults import FAULTS
from tests.faults.chaos.work import Work

COUNT, SECONDS = 4, 40
SHORT = ("flow process", "Prefect server", "Prefect worker", "MLflow", "img2dataset", "stage command")
"""What a stack is over in seconds, and what the other tests of it do not notice."""


def test_whatever_is_killed_nothing_is_lost_done_twice_hung_or_left_behind(stack: Stack, tmp_path: Path) -> None:
    said: list[str] = []
    faults = [fault for fault in FAULTS if fault.name in SHORT]
    work = Work(tmp_path, steps=1, deployment="ingest-images")
    campaign = Campaign(Home(stack.home), work, Random(2), said.append, faults, pause_s=3.0)
    try:
        campaign.run(COUNT, SECONDS)
    finally:
        work.close()
    assert campaign.injected >= 1, said
    assert not [found for kind in campaign.complaints.values() for found in kind], said
    assert campaign.completed >= 1 and campaign.oracle.acknowledged >= 1, said
