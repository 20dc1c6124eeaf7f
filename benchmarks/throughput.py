"""Images a second, memory and FLOP utilisation of one generator's training step on one device.

Utilisation is counted operations (forward and backward) over time and over the peak: the one given with --peak-tflops (989 for a
dense bf16 H200), or else what a large matrix product reaches on this device in this run.

    python benchmarks/throughput.py --recipe sdxl_half --side 1024 --device cuda --precision bf16 --compile
    python benchmarks/throughput.py --recipe demo --side 96 --batch 32
"""

import argparse
import json
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from pangu.config import Execution
from pangu.diffusion.noise import alpha_bars
from pangu.models.denoisers import build_denoiser
from pangu.planning.operations import Shapes
from pangu.recipes import recipe as named
from pangu.train.draws import Batch
from pangu.train.laps import Laps
from pangu.train.loop import prepared, start
from pangu.train.meters import peak_memory_gib
from pangu.train.step import loss_per_sample, train_step
from pangu.train.world import World

GOAL = 0.45


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of ten."""
    side = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        best = min(best, _seconds(lambda: left @ right, device))
    return 2 * side**3 / best


def _seconds(work: object, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()  # type: ignore[operator]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def noise_batch(channels: tuple[int, int, int], side: int, tokens: int, size: int, device: torch.device) -> Batch:
    """A batch of noise; channels: of latents, text tokens and pooled text."""
    latent, context, pooled = channels
    shape = size, latent, side // 8, side // 8
    return Batch(
        latents_bchw=torch.randn(shape),
        noise_bchw=torch.randn(shape),
        tokens_bsc=torch.randn(size, tokens, context),
        pooled_bp=torch.randn(size, pooled),
        timestep_b=torch.randint(500, 1000, (size,)),
        preset=0,
    ).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--side", type=int, default=96, help="px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--peak-tflops", type=float, default=None)
    for switch in ("compile", "channels-last", "gradient-checkpointing"):
        parser.add_argument(f"--{switch}", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device, recipe = torch.device(asked.device), named(asked.recipe)
    execution = Execution(
        precision=asked.precision,
        compile=asked.compile,
        channels_last=asked.channels_last,
        gradient_checkpointing=asked.gradient_checkpointing,
    )
    shapes = Shapes(recipe)
    channels = shapes.latent_channels, shapes.tokens, shapes.pooled
    network = build_denoiser(recipe.denoiser, *channels).to(device).train()
    batch = noise_batch(channels, asked.side, recipe.max_tokens, asked.batch, device)
    alpha_bars_t = alpha_bars(recipe.schedule).to(device)
    with FlopCounterMode(display=False) as counter:
        loss_per_sample(network, batch, alpha_bars_t, recipe.schedule.prediction_type).sum().backward()
    flops = counter.get_total_flops()
    model = prepared(network, execution, World(device=device))
    averages, optimizer = start(network, recipe)

    def step() -> None:
        train_step(
            model, optimizer, [batch], asked.batch, alpha_bars_t, recipe.schedule, recipe.optimization, execution,
            Laps(device, every=1_000_000),
        )  # fmt: skip
        averages.step()

    for _ in range(3):
        step()
    seconds = statistics.median(_seconds(step, device) for _ in range(asked.steps))
    dtype = torch.bfloat16 if asked.precision == "bf16" else torch.float32
    peak = asked.peak_tflops * 1e12 if asked.peak_tflops else measured_peak(device, dtype)
    utilisation = flops / seconds / peak
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{asked.recipe}, {parameters / 1e6:.1f} M parameters, {asked.side} px, batch {asked.batch}, {execution!r}")
    print(f"{asked.batch / seconds:.2f} images/s, {peak_memory_gib(device):.1f} GiB, {flops / 1e12:.3f} TFLOP a step")
    print(f"{flops / seconds / 1e12:.3f} of {peak / 1e12:.3f} TFLOP/s")
    result = {"name": "throughput", "value": round(utilisation, 4), "goal": GOAL, "holds": utilisation >= GOAL}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
