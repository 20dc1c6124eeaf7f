"""Images a second of the platform's training loop against a bare PyTorch loop: same network, batches and data in memory.

The bare loop is what anybody would write first: draw a batch, predict, step. The platform's loop adds the sampler, draws that do
not depend on the number of workers, running means, metrics, and the check for a finite loss. Both alternate in rounds, from the
first log line to the last, and the median of their ratios counts. Beside it stands the same in core seconds of all
threads, in which the thread that draws batches ahead counts too, and other work on the machine does not.

    python benchmarks/train_overhead.py [--recipe demo] [--steps 60] [--rounds 11] [--device cuda --precision bf16]
"""

import argparse
import json
import statistics

import torch
from loops import Spent, network_of, our_loop, plain_loop, random_rows, timed

from pangu.planning.operations import Shapes
from pangu.recipes import recipe as named

GOAL = 0.97
LOG_EVERY = 5
"""Steps between two log lines; those before the first one are no part of the time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=int, default=420)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe, device = named(asked.recipe), torch.device(asked.device)
    execution = recipe.execution.model_copy(update={"precision": asked.precision})
    recipe, shapes = timed(recipe, "structure", execution, LOG_EVERY), Shapes(recipe)
    rows = random_rows(shapes, asked.rows, recipe.structure.resolution // 8)
    loops = {"bare": plain_loop, "platform": our_loop}
    took: dict[str, list[Spent]] = {name: [] for name in loops}
    lines = max(2, asked.steps // LOG_EVERY)
    for number in range(asked.rounds):
        for name in sorted(loops, reverse=number % 2 == 1):  # nobody is always the first
            network = network_of(shapes, "structure", device)
            took[name].append(loops[name](recipe, "structure", rows, network, device, lines))
    images = (lines - 1) * LOG_EVERY * recipe.structure.batch_size
    for name, rounds in took.items():
        speeds = [images / one.clock for one in rounds]
        print(f"{name:9} {statistics.median(speeds):8.1f} images/s (rounds: {', '.join(f'{v:.1f}' for v in speeds)})")
    pairs = list(zip(took["bare"], took["platform"], strict=True))
    value = statistics.median(bare.clock / ours.clock for bare, ours in pairs)
    core = statistics.median(bare.core / ours.core for bare, ours in pairs)
    result = {"name": "train_overhead", "value": round(value, 4), "goal": GOAL, "holds": value >= GOAL}
    print(json.dumps(result | {"core_seconds": round(core, 4)}))


if __name__ == "__main__":
    main()
