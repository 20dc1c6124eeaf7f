"""Is a pair better whose boundary `pangu boundary` recommended? Pairs of UNets at several boundaries, at one cost.

Recipe `demo` without the embedded pair's weights, on OpenMoji drawings; what differs is the boundary alone: windows, steps and
batches are the same, so the counted cost is. Each pair is the probe of a recommendation of its own, on the drawings that it
trained on. Memory: captions as listed that find their own drawing first; FID of thumbnails. Goal: the boundary with the best
memory is the one nearest to what the pair at 500 recommends.

    python benchmarks/boundaries.py [--boundaries 200 500 700] [--images 210] [--steps-share 1.0] [--prompts 64] [--home FOLDER]

Four core-minutes a boundary with all steps, two with half of them. With --home, a run that was stopped continues.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from efficiency_ledger import trained
from few_steps import FID, corpus
from kinds_of_experts import CARD, MEMORY, pair_of, recipe_of

from pangu.config import ROLES
from pangu.data.card import load_card
from pangu.data.encode.stage import encode
from pangu.evaluate.boundary_probe import find_boundary
from pangu.evaluate.evaluation import evaluate_whole
from pangu.evaluate.protocol import Protocol
from pangu.storage import Home

PROBE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boundaries", type=int, nargs="+", default=[200, PROBE, 700])
    parser.add_argument("--images", type=int, default=210)
    parser.add_argument("--steps-share", type=float, default=1.0)
    parser.add_argument("--prompts", type=int, default=64, help="per language")
    parser.add_argument("--home", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    home = Home((asked.home or Path(tempfile.mkdtemp(prefix="boundaries-"))).absolute())
    os.environ["PANGU_HOME"] = str(home.root)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    version = corpus(home, CARD, asked.images)
    protocol = Protocol(
        prompts_per_language=asked.prompts, num_inference_steps=20, guidance_scale=3.0, metrics=("retrieval", "fid")
    )
    memory, recommended = {}, {}
    for boundary in asked.boundaries:
        recipe = recipe_of("unet", asked.steps_share).model_copy(update={"boundary": boundary})
        encode_id = encode(CARD, version, recipe, home).encode_id
        halves = {role: trained(role, recipe, home, CARD, encode_id)[0] for role in ROLES}
        pair = pair_of("unet", "unet", {"unet": halves}, recipe)
        found = evaluate_whole(pair, f"boundary {boundary}", home, CARD, version, protocol).metrics
        folder = home.root / "boundaries" / f"{boundary}-{asked.steps_share:g}"
        advice = find_boundary(load_card(CARD), [halves[role] for role in ROLES], recipe, home, folder)
        memory[boundary], recommended[boundary] = found[MEMORY], advice.recommendation.boundary
        line = {"memory": found[MEMORY], "fid": found[FID], "recommends": advice.recommendation.boundary}
        print(json.dumps({"boundary": boundary, **line, "hand_over": advice.hand_over}), flush=True)
    best = max(memory, key=lambda one: memory[one])
    probe = recommended.get(PROBE, next(iter(recommended.values())))
    nearest = min(memory, key=lambda one: abs(one - probe))
    print(json.dumps({"name": "recommended_boundary", "value": best, "goal": nearest, "holds": best == nearest}))


if __name__ == "__main__":
    main()
