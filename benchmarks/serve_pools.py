"""Crowded pools beside the pipeline that they serve, called in a loop: same pair, precision and device, neither HTTP nor Ray.

python benchmarks/serve_pools.py --device cuda
python benchmarks/serve_pools.py --recipe tiny --side 96
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from claims import claim, not_run
from device_time import asked_of, emptied, in_turns
from in_process import serving
from stand_in import stand_in

from pangu.pipelines.assemble import starting_pair
from pangu.recipes import recipe as named
from pangu.serve.inference.messages import Job

STEPS, ROUNDS = 20, 3


def crowded(name: str, pair: Any, requests: int, device: torch.device) -> None:
    """Images/s of both; each request has a prompt and a seed of its own."""
    prompts = [f"a red apple, number {number}" for number in range(requests)]
    jobs = [Job(prompt=text, seed=seed, steps=STEPS, guidance_scale=3.0) for seed, text in enumerate(prompts)]
    with serving(pair) as pools:

        def in_a_loop() -> None:
            for seed, text in enumerate(prompts):
                generator = torch.Generator().manual_seed(seed)
                pair(text, num_inference_steps=STEPS, guidance_scale=3.0, generator=generator)

        works = {"pools": lambda: pools.draw(jobs), "loop": in_a_loop}
        took = {which: statistics.median(all_s) for which, all_s in in_turns(works, ROUNDS, device).items()}
    speeds = {which: requests / seconds for which, seconds in took.items()}
    claim(name, speeds["pools"] / speeds["loop"], requests=requests, images_per_s=speeds, precision=str(pair.dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sdxl_half")
    parser.add_argument("--side", type=int, default=512, help="px")
    asked, budget, device = asked_of(parser)
    measurements: dict[str, Callable[[], None]] = {
        "pools_embedded": lambda: crowded("pools_embedded", starting_pair(named("demo")), 16, device),
        "pools_half": lambda: crowded("pools_half", stand_in(named(asked.recipe), asked.side, device), 8, device),
    }
    for name, measure in measurements.items():
        if budget.spent:
            not_run(name, "no time left")
        else:
            emptied(device)
            measure()


if __name__ == "__main__":
    main()
