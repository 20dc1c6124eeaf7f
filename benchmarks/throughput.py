"""How fast one generator trains on one device: beside a plain loop, beside the device's matrix rate, and under other switches.

All figures are of one run on one device, in the shapes that a worker of the recipe gets (`sdxl_half`: 32 images of 512 px of the
texture half, 16 of 1024 px of the structure half), and count the operations of the network alone: what gradient checkpointing
repeats is no work done. What does not begin in time is not run.

    python benchmarks/throughput.py --device cuda [--recipe sdxl_half] [--seconds 600]
    python benchmarks/throughput.py --recipe tiny
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from claims import claim, not_run
from device_time import Budget, asked_of, emptied, matrix_rate
from loops import Spent, network_of, our_loop, plain_loop, random_rows, timed

from pangu.config import Execution, Recipe, Role
from pangu.planning.operations import Shapes, forward_operations
from pangu.recipes import recipe as named
from pangu.train.training_metrics import peak_memory_gib

SWITCHES = ("gradient_checkpointing", "compile", "channels_last")
"""Which decide how fast the same numbers come; each is turned round by itself."""
LOG_EVERY, ROUNDS = 6, 2


def turned(own: Execution, switch: str) -> Execution:
    """The same execution with one of the `SWITCHES` the other way round."""
    return own.model_copy(update={switch: not getattr(own, switch)})


def share_of_rate(operations_an_image: float, images_per_s: float, rate: float) -> float:
    """Of the device's matrix rate: forward and twice as much backward of every image."""
    return 3 * operations_an_image * images_per_s / rate


def fastest_of(own: float, others: Mapping[str, float | None]) -> float:
    """The recipe's own images/s over the most of the others that the device has room for (None: it has not)."""
    measured = [speed for speed in others.values() if speed is not None]
    return own / max(measured) if measured else 1.0


@dataclass(frozen=True)
class Case:
    """One job of the recipe as one of its workers meets it."""

    shapes: Shapes
    role: Role
    device: torch.device

    @property
    def recipe(self) -> Recipe:
        return self.shapes.recipe

    @property
    def execution(self) -> Execution:
        return self.recipe.execution_of(self.role)

    def loop(
        self, run: Callable[..., Spent], execution: Execution, log_every: int = LOG_EVERY, lines: int = 2
    ) -> Spent:
        """What `our_loop` or `plain_loop` takes."""
        recipe = timed(self.recipe, self.role, execution, log_every)
        job = recipe.training(self.role)
        rows = random_rows(self.shapes, 2 * job.batch_size, job.resolution // 8)
        emptied(self.device)
        network = network_of(self.shapes, self.role, self.device)
        return run(recipe, self.role, rows, network, self.device, lines)

    def speed(self, execution: Execution, run: Callable[..., Spent] = our_loop) -> float | None:
        """Images a second between two log lines; None where the device has no room for it."""
        images = LOG_EVERY * self.recipe.training(self.role).batch_size // self.recipe.workers
        try:
            speed = images / self.loop(run, execution).clock
        except torch.OutOfMemoryError:
            speed = None
        found = "no room" if speed is None else f"{speed:.2f} images/s, {peak_memory_gib(self.device):.1f} GiB at most"
        print(f"{self.role}, {run.__name__}, {execution.model_dump_json(exclude_defaults=True)}: {found}", flush=True)
        return speed


def first_step(case: Case) -> None:
    """From random weights to the end of the first step, compilation included, with an empty cache."""
    if not case.execution.compile:
        not_run("train_first_step_s", "the recipe does not compile")
        return
    try:
        claim("train_first_step_s", case.loop(our_loop, case.execution, log_every=1, lines=1).clock)
    except torch.OutOfMemoryError:
        not_run("train_first_step_s", "the device has no room for it")


def beside_plain(case: Case, budget: Budget) -> float | None:
    """Returns our own images/s, if there was time and room for a round."""
    own, ours, ratios = case.execution, [], []
    for number in range(ROUNDS):
        if budget.spent:
            break
        order = (our_loop, plain_loop) if number % 2 else (plain_loop, our_loop)  # nobody is always the first
        speeds = {loop: case.speed(own, loop) for loop in order}
        if None in speeds.values():
            break
        ours.append(speeds[our_loop])
        ratios.append(speeds[our_loop] / speeds[plain_loop])
    if not ratios:
        not_run("train_loop", "no time or no room for a round")
        return None
    claim("train_loop", statistics.median(ratios), rounds=len(ratios))
    return statistics.median(ours)


def share(case: Case, speed: float | None, rate: float, **facts: object) -> None:
    name, side = f"train_share_{case.role}", case.recipe.training(case.role).resolution
    if speed is None:
        not_run(name, "no time or no room")
        return
    operations = forward_operations(case.shapes, case.role, side)
    facts |= {"side": side, "images_per_s": speed, "matrix_tflops": rate / 1e12}
    claim(name, share_of_rate(operations, speed, rate), **facts)


def memory(case: Case) -> None:
    """The most that a device holds in a step of the largest recipe, under its own switches."""
    execution, batch = case.execution, case.recipe.training(case.role).batch_size // case.recipe.workers
    speed = case.speed(execution)
    if speed is None:
        not_run("train_memory_gib", "the device has no room for the recipe's own switches")
    else:
        at_once = batch // execution.accumulate
        claim("train_memory_gib", peak_memory_gib(case.device), images_at_once=at_once, images_per_s=speed)


def under_switches(own: float, others: Mapping[str, float | None]) -> None:
    if len(others) == len(SWITCHES):
        claim("train_switches", fastest_of(own, others), own=own, turned=dict(others))
    else:
        not_run("train_switches", "no time left for every switch")


def measure(recipe: Recipe, largest: Recipe, device: torch.device, budget: Budget) -> None:
    """The most telling figures first."""
    shapes = Shapes(recipe)
    rate = matrix_rate(device, torch.bfloat16 if recipe.execution.precision == "bf16" else torch.float32)
    texture, structure = Case(shapes, "texture", device), Case(shapes, "structure", device)
    first_step(texture)
    own, others = beside_plain(texture, budget), {}

    def turn(switch: str) -> None:
        if own is not None and not budget.spent:
            others[switch] = texture.speed(turned(texture.execution, switch))

    turn(SWITCHES[0])
    share(structure, None if budget.spent else structure.speed(structure.execution), rate)
    if budget.spent:
        not_run("train_memory_gib", "no time left")
    else:
        memory(Case(Shapes(largest), "structure", device))
    for switch in SWITCHES[1:]:
        turn(switch)
    best = max((speed for speed in (own, *others.values()) if speed is not None), default=None)
    share(texture, best, rate, own=own, turned=others)
    under_switches(own or 0.0, others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="default: sdxl_half on a GPU, tiny on a CPU")
    asked, budget, device = asked_of(parser)
    on_a_gpu = device.type == "cuda"
    recipe = named(asked.recipe or ("sdxl_half" if on_a_gpu else "tiny"))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing is compiled beforehand
        measure(recipe, named("pangu_draw_5b") if on_a_gpu else recipe, device, budget)


if __name__ == "__main__":
    main()
