"""What a cooperating step costs beside its parts: two predictions, and a decode and an encode each way.

A step is Algorithm 1 of PanGu-Draw across two latent spaces. Both sides alternate in rounds and the median round counts. On a
CPU, processor time of this one process is measured, so that other work on the machine does not. The cost controls follow, each
with its time against the full cooperation, and the peak signal-to-noise ratio of its picture against the full one's: with the
random networks that stand in by default this says how far the pictures part, not which is better.

    python benchmarks/coop.py [--main FOLDER --partner FOLDER] [--steps 6] [--rounds 5] [--device cuda]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.coop import CoopPipeline, Partner
from pangu.pipelines.coop.bridge import psnr
from pangu.recipes import recipe
from pangu.sampling.question import Networks, answered, ask
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk

GOAL = 1.05


def stand_in(side: int) -> StableDiffusionPipeline:
    """A random model in the format of Stable Diffusion, whose autoencoder is not the pair's."""
    torch.manual_seed(0)
    tower = load_text_tower(recipe("demo").text_encoders[0])
    text = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(tower.tokenizer),
        eos_token_id=1,
    )
    blocks = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    network = UNet2DConditionModel(
        sample_size=side // 4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=blocks,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=[32, 64, 64],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return StableDiffusionPipeline(
        autoencoder.eval(),
        CLIPTextModel(text).eval(),
        tower.tokenizer,
        network.eval(),
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_autoencoder() -> AutoencoderTiny:
    """Of the stand-in's latents; random as it is."""
    torch.manual_seed(1)
    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16), decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).eval()  # fmt: skip


def clock(device: torch.device) -> float:
    """Seconds: of this process on a CPU, of the wall on a GPU once it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    began = clock(device)
    run()
    return clock(device) - began


def parts(state: SamplingState) -> Callable[[], None]:
    """One step's parts by hand: both predictions, and both ways over the bridge."""
    partner, networks = state.partners[0], Networks()
    bridge: Any = partner.bridge
    here, asked = state.trajectory.latents_bchw.clone(), torch.tensor(500.0)
    there = torch.randn(bridge.partner.shape(len(here)), device=bridge.partner.adapter.device)

    def run() -> None:
        answered(ask(state.model, here, asked, state.trajectory.condition), networks)
        answered(ask(partner.model, there, asked, partner.condition), networks)
        bridge.to_main(there)
        bridge.to_partner(here)

    return run


@torch.inference_mode()
def step_ratio(coop: CoopPipeline, arguments: dict[str, Any], rounds: int, device: torch.device) -> float:
    """Seconds of all steps but the last, which needs no way back, over those of as many sums of parts."""
    ratios = []
    for number in range(rounds + 1):
        state = coop.begin("fox", **arguments)
        run, steps = parts(state), len(state.trajectory.timesteps) - 1
        both = {
            "ours": lambda s=state, n=steps: walk(s, lambda here: here.trajectory.step < n),
            "parts": lambda run=run, n=steps: [run() for _ in range(n)],
        }
        order = sorted(both, reverse=bool(number % 2))  # whoever comes second finds warmer caches
        took = {name: seconds(both[name], device) for name in order}
        ours, theirs = took["ours"], took["parts"]
        if number > 0:  # the first round warms up
            ratios.append(ours / theirs)
            print(f"step {ours / steps * 1000:8.1f} ms, parts {theirs / steps * 1000:8.1f} ms, ratio {ratios[-1]:.3f}")
    return statistics.median(ratios)


def with_controls(
    main: Any, partner: Any, arguments: dict[str, Any], rounds: int, device: torch.device, tiny: Any
) -> dict[str, Any]:
    """For each cost control: its time over the full cooperation's, and how far its picture is from the full one's, dB."""
    controls: dict[str, dict[str, Any]] = {"full": {}, "every 2nd step": {"every": 2}, "every 3rd step": {"every": 3}}
    controls |= {"first half": {"stop": 0.5}} | ({"tiny autoencoder": {"bridge_vae": tiny}} if tiny is not None else {})
    took: dict[str, list[float]] = {name: [] for name in controls}
    pictures: dict[str, torch.Tensor] = {}
    for _ in range(rounds):
        for name, change in controls.items():
            coop = CoopPipeline(main, Partner(partner, strength=0.5, **change))
            coop.set_progress_bar_config(disable=True)
            began = clock(device)
            drawn = coop("fox", **arguments, output_type="pt", generator=torch.Generator().manual_seed(0)).images
            took[name].append(clock(device) - began)
            pictures[name] = drawn * 2 - 1
    found: dict[str, Any] = {}
    for name in list(controls)[1:]:
        ratio = statistics.median(ours / full for ours, full in zip(took[name], took["full"], strict=True))
        found[name] = {"time": round(ratio, 3), "psnr_db": round(psnr(pictures[name], pictures["full"]), 1)}
        print(
            f"{name:18} {found[name]['time']:6.3f} of the time, {found[name]['psnr_db']:6.1f} dB from the full picture"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--main", help="folder or hub id; default: an untrained pair of the demo recipe")
    parser.add_argument("--partner", help="folder or hub id; default: a random model in Stable Diffusion's format")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(asked.device)
    model = asked.main or untrained_pair(recipe("demo"))
    coop = CoopPipeline(model, Partner(asked.partner or stand_in(96), strength=0.5)).to(device)
    height, width = coop.models.main.default_size
    arguments = {"num_inference_steps": asked.steps, "height": height, "width": width, "guidance_scale": 3.0}
    value = step_ratio(coop, arguments, asked.rounds, device)
    tiny = None if asked.partner else tiny_autoencoder().to(device)
    controls = with_controls(coop.main, coop.models.partners[0].pipe, arguments, asked.rounds, device, tiny)
    result = {"name": "coop_step", "value": round(value, 4), "goal": GOAL, "holds": value <= GOAL}
    print(json.dumps(result | {"controls": controls}))


if __name__ == "__main__":
    main()
