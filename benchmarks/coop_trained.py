"""Coop-Diffusion with trained models: the starter pair (96 px, 8x latents of 16 channels) and partners of 48 px (4x, 8 channels).

Trains by the platform's own deployments (`ingest-images`, `prepare-dataset`, `train-partner`), on a stack of FOLDER and on all of
OpenMoji without its held-out combinations: in an autoencoder of another latent space a generator, a smaller one, one of
another style, and a ControlNet for edges. Then, on held-out captions and the edges of their drawings: edge + text as d goes
from 0 to 1; low to high resolution; the pair asked in Chinese with a partner asked in English. Ends in a JSON line.

    python benchmarks/coop_trained.py --home FOLDER [--prompts 32] [--pictures docs]

Half an hour on one free core. What is in FOLDER is not made again, so a run that was stopped continues.
"""

import argparse
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coop_flows import EVERYTHING, Flows, Outcomes, edge_control, everything, partner, stylist
from coop_study import GUIDANCE, HIGH, LOW, STEPS, Study, call, gflops, quiet, resized, sheet, table
from coop_style import style_and_content
from PIL import Image

from pangu.data.prepare.upscale import make_upscaler
from pangu.evaluate.eval_set import gather
from pangu.evaluate.protocol import Protocol
from pangu.image_grid import png
from pangu.models.init_weights import STARTER
from pangu.models.sources import locate
from pangu.pipelines.coop import CoopPipeline, Handoff, Partner
from pangu.pipelines.coop.loading import load_pipeline
from pangu.progress import print_progress
from pangu.starter.autoencoder import train_autoencoder
from pangu.starter.learning_material import learning_material, pixels
from pangu.starter.pair import starter_pair
from pangu.storage import Home, write_atomically, write_json

LOWEST = 32
SHAPES = {"edges": ".3f", "edges within 1 px": ".3f", "top1": ".2f", "similarity": ".3f", "psnr": ".2f"}
SHAPES |= {"like the print": ".1f", "fid": ".1f", "sharpness": ".2f", "GFLOPs": ".2f", "core-s": ".3f"}
STRENGTHS = tuple(step / 10 for step in range(11))
PARTNER_ALONE = "partner alone"
SHOWN_STRENGTHS = (PARTNER_ALONE, "d = 0.0", "d = 0.3", "d = 0.5", "d = 0.7", "d = 1.0", "d = 0.8 early")
SHOWN = (0, 3, 6, 9)
"""Prompts in the pictures."""
JOINED = ("partner", "lowest", "style")
"""Generators among the models that are trained; the fourth is a ControlNet."""


def autoencoder(home: Home, minutes: float) -> Path:
    """A latent space that the starter pair does not know: 4x smaller pictures of 8 channels."""
    folder = home.root / "autoencoder"
    if not folder.is_dir():
        images = torch.from_numpy(pixels(learning_material()[0], LOW))
        shape = {"spatial_factor": 4, "latent_channels": 8}
        print(f"autoencoder: {train_autoencoder(images, minutes, folder, report=print_progress, **shape):.2f} dB")
    return folder


def edge_and_text(study: Study, alone: Any, control: Path, mirrored: bool) -> dict[str, dict[str, float]]:
    """Edge agreement and retrieval of the pair with a partner that knows the edges and no words, as d goes from 0 to 1."""
    mute = {"prompt": "", "guidance_scale": 1.0, "height": LOW, "width": LOW, "upsample": "lanczos"}
    coop = quiet(CoopPipeline(starter_pair(), Partner(alone, controlnet=control, **mute)))
    just = quiet(CoopPipeline(alone, controlnet=control))
    captions, edges, kind = study.captions("en"), study.controls(mirrored), "mirrored" if mirrored else "own"

    def partner_alone(part: slice, noise: list[torch.Generator]) -> Any:
        empty = [""] * len(noise)
        return just(empty, image=edges[part], generator=noise, **call(guidance_scale=1.0)).images

    def together(**changes: Any) -> Any:
        def draw(part: slice, noise: list[torch.Generator]) -> Any:
            return coop(captions[part], partners=[{"image": edges[part], **changes}], generator=noise, **call()).images

        return draw

    settings: dict[str, dict[str, Any]] = {f"d = {d:.1f}": {"strength": d} for d in STRENGTHS}
    settings |= {f"d = {d:.1f} early": {"strength": d, "stop": 0.5} for d in (0.8, 1.0)}
    settings |= {
        f"d = {d:.1f} early, scale 1.5": {"strength": d, "stop": 0.5, "conditioning_scale": 1.5} for d in (0.8,)
    }
    ways = {PARTNER_ALONE: partner_alone} | {name: together(**changes) for name, changes in settings.items()}
    found: dict[str, dict[str, float]] = {}
    columns: dict[str, Any] = {"the drawing": study.truth, "the edges": edges}
    for name, way in ways.items():
        drawn = study.drawn(f"edges {kind} {name}", way)
        found[name] = study.against_controls(drawn, mirrored) | {"top1": study.found_by_caption(drawn)}
        if name in SHOWN_STRENGTHS:
            columns[f"{name}|F1 {found[name]['edges']:.2f}, top-1 {found[name]['top1']:.2f}"] = drawn
    write_atomically(
        study.folder / ("coop_edges.png" if mirrored else "coop_edges_own.png"), png(sheet(columns, SHOWN, 100))
    )
    return found


def low_to_high(study: Study, lows: dict[int, Any]) -> dict[str, dict[str, float]]:
    """Partners of few pixels begin and the pair finishes at 96, beside the pair alone and the partners enlarged."""
    pair, captions, found = starter_pair(), study.captions("en"), {}
    high, enlarge = quiet(CoopPipeline(pair)), make_upscaler("spanx2").upscale
    ways: dict[str, Any] = {f"{HIGH} px alone": high}
    for side, alone in lows.items():
        low = quiet(CoopPipeline(alone))
        ways |= {f"{side} px, Lanczos": low, f"{side} px, spanx2": low}
        handed = quiet(CoopPipeline(pair, handoff=Handoff(low, upsample="lanczos")))
        for t_low in (850, 700, 500, 300):
            ways[f"{side} px to t = {t_low}"] = partial(handed, handoff={"t_low": t_low})

    columns: dict[str, Any] = {"the drawing": study.truth}
    for name, way in ways.items():

        def draw(part: slice, noise: list[torch.Generator], name: str = name, way: Any = way) -> Any:
            pictures = way(captions[part], generator=noise, **call()).images
            if name.endswith("spanx2"):
                pictures = [Image.fromarray(enlarge(np.asarray(picture))) for picture in pictures]
            return [resized(picture, HIGH) for picture in pictures]

        drawn = study.drawn(f"handoff {name}", draw)
        cost = {"GFLOPs": gflops(partial(way, ["a fox"], **call())), "core-s": study.core_seconds(f"handoff {name}")}
        found[name] = study.figures(drawn) | study.against_controls(drawn) | cost
        if name.split("t = ")[-1] in (*ways, "850", "700", "300") and not name.endswith("spanx2"):
            columns[f"{name}|{found[name]['psnr']:.1f} dB"] = drawn
    write_atomically(study.folder / "coop_handoff.png", png(sheet(columns, SHOWN)))
    return found


def zh_with_en(study: Study, alone: Any) -> dict[str, dict[str, float]]:
    """The pair hears in Chinese who it is; the partner, in English, who in which skin tone."""
    coop = quiet(CoopPipeline(starter_pair(), Partner(alone, height=LOW, width=LOW, upsample="lanczos")))
    english = study.captions("en")
    who = [caption.rpartition(" ")[0] or caption for caption in study.captions("zh")]
    found, columns = {}, {"the drawing": study.truth}
    for d in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):

        def draw(part: slice, noise: list[torch.Generator], d: float = d) -> Any:
            asked = [{"strength": d, "prompt": english[part]}]
            return coop(who[part], partners=asked, generator=noise, **call()).images

        drawn = study.drawn(f"languages d = {d:.1f}", draw)
        found[f"d = {d:.1f}"] = study.figures(drawn)
        columns[f"d = {d:.1f}|top-1 {found[f'd = {d:.1f}']['top1']:.2f}"] = drawn
    write_atomically(study.folder / "coop_languages.png", png(sheet(columns, SHOWN)))
    return found


def both_better(edges: dict[str, dict[str, float]]) -> dict[str, float]:
    """The settings that follow the edges better than the pair alone and the words better than the partner alone, by how much.

    The smaller one of both gains, in F1 and in top-1.
    """
    pair, partner = edges["d = 0.0"], edges[PARTNER_ALONE]
    gains = {
        name: round(min(values["edges"] - pair["edges"], values["top1"] - partner["top1"]), 4)
        for name, values in edges.items()
    }
    return {name: gain for name, gain in gains.items() if gain > 0}


def weights_digest(folders: list[Path]) -> str:
    """What tells the pictures of these models from those of any others."""
    files = [path for folder in folders for path in sorted(folder.rglob("*.safetensors"))]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:12]


def train_all(flows: Flows, version: int, space: Path, asked: argparse.Namespace) -> dict[str, Outcomes]:
    """What the flows left of every model that takes part."""
    first = partner(flows, version, space, asked.partner_steps)
    generator = first["train-single"]["generator"]
    return {
        "partner": first,
        "edges": edge_control(flows, version, space, generator, asked.control_steps),
        "lowest": partner(flows, version, space, asked.partner_steps, LOWEST),
        "style": stylist(flows, space, generator, asked.style_steps),
    }


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--autoencoder-minutes", type=float, default=3.0, help="of one core")
    parser.add_argument("--partner-steps", type=int, default=1400)
    parser.add_argument("--control-steps", type=int, default=1500)
    parser.add_argument("--style-steps", type=int, default=400)
    parser.add_argument("--pictures", type=Path, help="A folder that the pictures are copied to.")
    return parser.parse_args()


def study_of(home: Home, version: int, partners: dict[str, Outcomes], prompts: int) -> Study:
    """Held-out prompts, and a folder for what these models draw for them."""
    material = gather(
        home, EVERYTHING, version,
        Protocol(split="held_out", prompts_per_language=prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE), HIGH,
    )  # fmt: skip
    trained = [partners["edges"]["train-control"]["generator"], *(partners[name]["join"]["folder"] for name in JOINED)]
    models = weights_digest([Path(folder) for folder in (locate("embedded", STARTER), *trained)])
    return Study(material, home.root / f"study-{prompts}-{models}")


def measured(study: Study, partners: dict[str, Outcomes]) -> dict[str, dict[str, dict[str, float]]]:
    """All tables; their pictures are left in the study's folder."""
    alone, lowest, styled = (load_pipeline(partners[name]["join"]["folder"]) for name in JOINED)
    control = Path(partners["edges"]["train-control"]["generator"])
    with torch.inference_mode():
        return {
            "edges": edge_and_text(study, alone, control, mirrored=True),
            "handoff": low_to_high(study, {LOWEST: lowest, LOW: alone}),
            "languages": zh_with_en(study, alone),
            "style": style_and_content(study, styled, SHOWN),
        }


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    home = Home(asked.home.absolute())
    os.environ["PANGU_HOME"] = str(home.root)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with Flows(home) as flows, ThreadPoolExecutor(1) as beside:
        preparing = beside.submit(everything, flows)
        space, version = autoencoder(home, asked.autoencoder_minutes), preparing.result()
        partners = train_all(flows, version, space, asked)
    study = study_of(home, version, partners, asked.prompts)
    found = measured(study, partners)
    write_json(study.folder / "figures.json", found)
    for name, values in found.items():
        print(f"\n{name}\n\n{table(values, SHAPES)}")
    print(f"\npictures and figures in {study.folder}")
    for path in study.folder.glob("coop_*.png") if asked.pictures else ():
        shutil.copy(path, asked.pictures)
    gains = both_better(found["edges"])
    best = max(gains.values(), default=0.0)
    result = {"name": "coop_trained", "value": round(best, 4), "goal": 0.0, "holds": best > 0, "gains": gains}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
