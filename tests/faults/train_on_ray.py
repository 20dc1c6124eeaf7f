"""A training job on real Ray Train, as `pangu train` starts it: `HOME ENCODE_ID ROLE WORKERS MIN_WORKERS CPUS LR_PEAK`."""

import sys
from pathlib import Path

import ray

from pangu.errors import UserError
from pangu.storage import Home
from pangu.train.launch import train
from tests.small_dataset import NAME
from tests.train.rows import small_recipe

STEPS = 60


def main(home: Home, encode_id: str, role: str, workers: int, least: int, cpus: int, lr_peak: float) -> None:
    ray.init(num_cpus=cpus, include_dashboard=False)
    recipe = small_recipe(steps=STEPS, lr_peak=lr_peak)
    recipe = recipe.model_copy(update={"workers": workers, "min_workers": least or None})
    try:
        print(train(role, NAME, encode_id, recipe, home, f"{role}-{workers}-{lr_peak:g}").model_dump_json())
    except UserError as error:
        print(f"pangu: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main(
        Home(Path(sys.argv[1])),
        sys.argv[2],
        sys.argv[3],
        int(sys.argv[4]),
        *map(int, sys.argv[5:7]),
        float(sys.argv[7]),
    )
