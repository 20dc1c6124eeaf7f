"""Encodes the small dataset and trains one role in this process, as a worker of a training job does: `HOME VERSION ROLE`."""

import sys
from pathlib import Path

from pangu.data.encode.stage import encode
from pangu.storage import Home
from pangu.train.job import TrainJob
from pangu.train.worker import work
from pangu.train.world import World
from tests.small_dataset import NAME
from tests.train.rows import small_recipe

STEPS = 8


def main(home: Home, version: int, role: str) -> None:
    recipe = small_recipe(steps=STEPS)
    encoded = encode(NAME, version, recipe, home)
    job = TrainJob(
        role=role,
        run_name=role,
        encode_id=encoded.encode_id,
        recipe=recipe,
        encoded=home.encoded(NAME, encoded.encode_id),
        run_folder=home.run(role),
    )
    if not (job.run_folder / "outcome.json").is_file():
        work(job, World())


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
