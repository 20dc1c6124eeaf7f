"""What a sampling step of a served pair costs beside the bare network, and a half beside the whole network.

A served step is the difference between long and short requests to the pools of this process, over the difference of their steps,
so that text and decoding do not count. The bare network is its CUDA graph, replayed; on a CPU, its call.

    python benchmarks/sampling.py --device cuda [--recipe sdxl_half] [--monolith pangu_draw_5b]
    python benchmarks/sampling.py --recipe time_decoupling --monolith resolution_boost
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from claims import claim, not_run
from device_time import asked_of, emptied, in_turns
from in_process import Pools, serving
from stand_in import random_network, stand_in, with_embedded_encoders

from pangu.config import Recipe
from pangu.models.denoisers import denoise
from pangu.pipelines.assemble import starting_pair
from pangu.planning.operations import Shapes
from pangu.recipes import recipe as named
from pangu.serve.inference.messages import Job

SHORT, LONG, ROUNDS = 10, 40, 5
Channels = tuple[int, int, int]


def channels_of(recipe: Recipe) -> Channels:
    """Of latents, text tokens and pooled text."""
    shapes = Shapes(recipe)
    return shapes.latent_channels, shapes.tokens, shapes.pooled


def prediction(network: Any, channels: Channels, side: int, rows: int, tokens: int) -> Callable[[], Any]:
    """A call of the bare network with noise in its own precision; side: px."""
    weight = next(network.parameters())
    latent, context, pooled = channels

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=weight.device, dtype=weight.dtype)

    given = (
        noise(rows, latent, side // 8, side // 8), torch.full((rows,), 700, device=weight.device),
        noise(rows, tokens, context), noise(rows, pooled), 0,
    )  # fmt: skip

    @torch.no_grad()
    def call() -> Any:
        return denoise(network, *given)

    return call


def replayed(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The same recorded as a CUDA graph; on other devices the call itself."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def a_step(long_s: float, short_s: float, steps: int) -> float:
    """Seconds of one step, from requests that differ by `steps` of them."""
    return (long_s - short_s) / steps


def served_step(pools: Pools, device: torch.device, rounds: int = ROUNDS) -> float:
    """Seconds of one step of one image with guidance, over both halves."""
    sizes = {"short": SHORT, "long": LONG}
    jobs = {name: Job(prompt="a red apple", seed=0, steps=steps, guidance_scale=3.0) for name, steps in sizes.items()}
    works = {name: lambda job=job: pools.draw([job]) for name, job in jobs.items()}  # type: ignore[misc]
    took = {name: statistics.median(all_s) for name, all_s in in_turns(works, rounds, device).items()}
    return a_step(took["long"], took["short"], LONG - SHORT)


def beside_the_bare_network(recipe: Recipe, side: int, device: torch.device) -> None:
    emptied(device)
    pair = stand_in(recipe, side, device)
    with serving(pair) as pools:
        step_s = served_step(pools, device)
    shapes = with_embedded_encoders(recipe, side)
    bare = replayed(prediction(pair.structure, channels_of(shapes), side, 2, shapes.max_tokens), device)
    bare_s = statistics.median(in_turns({"bare": bare}, 10 * ROUNDS, device, warm=5)["bare"])
    claim("sampling_step", step_s / bare_s, step_ms=1e3 * step_s, bare_ms=1e3 * bare_s, side=side)


def embedded(device: torch.device) -> None:
    emptied(device)
    pair = starting_pair(named("demo"))
    with serving(pair) as pools:
        claim("sampling_embedded_ms", 1e3 * served_step(pools, device))


def halves(half: Recipe, monolith: Recipe, side: int, rows: int, dtype: torch.dtype, device: torch.device) -> None:
    """One prediction of each for a full batch."""
    emptied(device)
    name = "sampling_half_bf16" if dtype == torch.bfloat16 else "sampling_half_fp32"
    calls = {}
    for which, recipe in {"half": half, "whole": monolith}.items():
        channels = channels_of(recipe)
        network = random_network(recipe, channels, device).to(dtype)
        calls[which] = prediction(network, channels, side, rows, recipe.max_tokens)
    took = {which: statistics.median(all_s) for which, all_s in in_turns(calls, 3, device).items()}
    claim(name, took["half"] / took["whole"], half_s=took["half"], whole_s=took["whole"], side=side, rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sdxl_half")
    parser.add_argument("--monolith", default="pangu_draw_5b")
    asked, budget, device = asked_of(parser)
    half, whole = named(asked.recipe), named(asked.monolith)
    side, rows = half.structure.resolution, 16
    measurements: dict[str, Callable[[], None]] = {
        "sampling_embedded_ms": lambda: embedded(device),
        "sampling_step": lambda: beside_the_bare_network(half, half.texture.resolution, device),
        "sampling_half_bf16": lambda: halves(half, whole, side, rows, torch.bfloat16, device),
        "sampling_half_fp32": lambda: halves(half, whole, side, rows, torch.float32, device),
    }
    for name, measure in measurements.items():
        if budget.spent:
            not_run(name, "no time left")
        else:
            measure()


if __name__ == "__main__":
    main()
