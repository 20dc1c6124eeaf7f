"""A pair of flow transformers beside one of noise UNets at the same counted training cost, and both mixed pairs of their halves.

Recipes `demo` (without the embedded pair's weights) and `demo_flow` on the same drawings; their boundaries have one log-SNR, so a
structure half of either meets a texture half of either. Memory: captions as listed that find their own drawing first; FID of
thumbnails, all by one protocol. Goal: the flow pair's memory is at least that of the UNets; the best mixed pair is the flow
structure over the UNet texture.

    python benchmarks/kinds_of_experts.py [--images 210] [--steps-share 1.0] [--prompts 64] [--home FOLDER]

Ten minutes on one core, three times the steps (--steps-share 3) 25. With --home, a run that was stopped continues.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from efficiency_ledger import shortened, trained
from few_steps import FID, corpus, seconds_a_picture

from pangu.config import ROLES, Recipe
from pangu.contract import GeneratorContract
from pangu.data.encode.stage import encode
from pangu.evaluate.eval_set import gather
from pangu.evaluate.evaluation import evaluate_whole
from pangu.evaluate.protocol import Protocol
from pangu.image_grid import png, sample_grid
from pangu.pipelines.assemble import join, load_generator
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.planning.operations import Shapes, step_operations
from pangu.recipes import recipe as named
from pangu.starter.pair import starter_pair
from pangu.storage import Home, write_atomically

CARD, MEMORY = "openmoji", "retrieval_top1"
KINDS = {"unet": "demo", "flow": "demo_flow"}
SHOWN = 8
"""Columns of the sheet: captions that were trained, half of them Chinese, with the drawings in the last row."""


def recipe_of(kind: str, share: float) -> Recipe:
    """From random weights, with `share` of its steps."""
    return shortened(named(KINDS[kind]).model_copy(update={"init_from": None}), share)


def pair_of(above: str, below: str, halves: dict[str, dict[str, Path]], recipe: Recipe) -> PanGuDrawPipeline:
    """The structure half of one kind over the texture half of another. recipe: of structure's."""
    (structure, high), (texture, low) = (
        load_generator(halves[kind][role]) for kind, role in zip((above, below), ROLES, strict=True)
    )
    shared = starter_pair()
    contracts = {ROLES[0]: high, ROLES[1]: low}
    pair = join(structure, texture, contracts, shared.vae, shared.text_towers, recipe)
    pair.set_progress_bar_config(disable=True)
    return pair


def trained_halves(home: Home) -> dict[str, dict[str, Path]]:
    """kind -> role -> the generator of an earlier run there that was trained longest.

    Raises:
        SystemExit: one is missing.
    """
    found: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
    longest: dict[tuple[str, str], int] = {}
    for folder in home.root.glob("runs/*/generator"):
        contract = GeneratorContract.load(folder)
        kind = "flow" if contract.schedule.is_flow else "unet"
        if contract.trained_steps > longest.get((kind, contract.role), 0):
            longest[kind, contract.role], found[kind][contract.role] = contract.trained_steps, folder
    if any(set(halves) != set(ROLES) for halves in found.values()):
        raise SystemExit(f"{home.root} holds no halves of both kinds; kinds_of_experts.py --home makes them.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=210)
    parser.add_argument("--steps-share", type=float, default=1.0)
    parser.add_argument("--prompts", type=int, default=64, help="per language")
    parser.add_argument("--home", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    home = Home((asked.home or Path(tempfile.mkdtemp(prefix="kinds-of-experts-"))).absolute())
    os.environ["PANGU_HOME"] = str(home.root)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    version = corpus(home, CARD, asked.images)
    recipes = {kind: recipe_of(kind, asked.steps_share) for kind in KINDS}
    halves: dict[str, dict[str, Path]] = {}
    for kind, recipe in recipes.items():
        encode_id = encode(CARD, version, recipe, home).encode_id
        halves[kind] = {}
        for role in ROLES:
            halves[kind][role], seconds = trained(role, recipe, home, CARD, encode_id)
            job = recipe.training(role)
            counted = job.steps * job.batch_size * step_operations(Shapes(recipe), role, job.resolution)
            print(
                f"{kind} {role}: {job.steps} steps, {counted / 1e12:.2f} TFLOP counted, {seconds:.0f} core-seconds",
                flush=True,
            )
    protocol = Protocol(
        prompts_per_language=asked.prompts, num_inference_steps=20, guidance_scale=3.0, metrics=("retrieval", "fid")
    )
    material = gather(home, CARD, version, protocol, recipes["unet"].structure.resolution)
    english, chinese = (material.prompts["train"].captions[language] for language in ("en", "zh"))
    shown = [*english[: SHOWN // 2], *chinese[SHOWN // 2 : SHOWN]]
    figures, rows = {}, []
    for above in KINDS:
        for below in KINDS:
            name, pair = f"{above} over {below}", pair_of(above, below, halves, recipes[above])
            measured = evaluate_whole(pair, name, home, CARD, version, protocol).metrics
            figures[name] = measured | {"seconds": seconds_a_picture(pair, 20)}
            noise = [torch.Generator().manual_seed(7) for _ in shown]
            rows.append(pair(shown, num_inference_steps=20, guidance_scale=3.0, generator=noise).images)
            found = {key: round(figures[name][key], 4) for key in (MEMORY, FID, "seconds") if key in figures[name]}
            print(f"{name:16} {found}", flush=True)
    rows.append([material.images[key] for key in material.prompts["train"].keys[:SHOWN]])
    write_atomically(home.root / "kinds_of_experts.png", png(sample_grid(rows)))
    print(f"pictures in {home.root / 'kinds_of_experts.png'}")
    flow, unet = figures["flow over flow"][MEMORY], figures["unet over unet"][MEMORY]
    print(
        json.dumps({"name": "flow_pair_memory", "value": round(flow, 4), "goal": round(unet, 4), "holds": flow >= unet})
    )
    mixed = {name: one[MEMORY] for name, one in figures.items() if name in ("flow over unet", "unet over flow")}
    best = max(mixed, key=lambda name: mixed[name])
    goal = "flow over unet"
    print(json.dumps({"name": "best_mixed_pair", "value": best, "memory": mixed, "goal": goal, "holds": best == goal}))


if __name__ == "__main__":
    main()
