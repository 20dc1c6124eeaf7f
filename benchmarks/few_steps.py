"""What few steps cost: each half of the embedded pair distilled alone, beside the pair itself, by one protocol.

Students of two steps a half and of one, a distilled structure half under the texture half as it was, and the pair as it was in as
few steps. Goal: 2 + 2 steps reach 95 % of the top-1 of captions that nobody trained on and 1.15 times the FID of thumbnails of 20
steps, at a fifth of the time. 1 + 1 has no goal: it is shown beside.

    python benchmarks/few_steps.py [--steps 3000] [--student-steps 2 1] [--prompts 200] [--home FOLDER] [--distil]

An hour a core with the defaults, on two cores, and ten minutes to draw; 300 steps were enough for flat drawings. With --home, a
run that was stopped continues, and `cheaper_steps.py --students FOLDER` finds the students; --distil makes them and ends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pangu.config import ROLES, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.card import load_card
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.example.origin import open_origin
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import prepare
from pangu.data.table.versions import log
from pangu.evaluate.evaluation import evaluate_whole
from pangu.evaluate.protocol import Protocol
from pangu.image_grid import png, sample_grid
from pangu.pipelines.assemble import join, load_generator
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import recipe as named
from pangu.recipes import student_of
from pangu.starter.pair import starter_pair
from pangu.storage import Home, write_atomically
from pangu.train.job import TrainJob
from pangu.train.launch import default_run_name
from pangu.train.starting_weights import pin_initial
from pangu.train.training_cost import read_spent
from pangu.train.worker import work
from pangu.train.world import World

CARD = "openmoji_all"
TOP1_GOAL, FID_GOAL, TIME_GOAL = 0.95, 1.15, 0.2
TOP1, FID = "understanding_top1", "fid_thumbnail-16"
SHOWN = ("a fox", "snowman", "一座城堡", "red apple", "企鹅", "rocket", "umbrella", "向日葵")


def corpus(home: Home, name: str = CARD, images: int | None = None) -> int:
    """The version of the dataset of a card's first drawings (None: of all), made if there is none."""
    if home.dataset(name).is_dir():
        return max(entry.version for entry in log(home, name))
    card = load_card(name)
    origin = open_origin(images, 0, Path(card.source_uri(home)), 0.0)
    origin.start()
    try:
        origin.write_table(Path(card.source_uri(home)))
        return prepare(card, ingest(card, home).ingest_id, home).version
    finally:
        origin.close()


def students_recipe(steps: int, student_steps: int) -> Recipe:
    recipe = student_of(named("demo"), "embedded", student_steps)
    jobs = {role: job.model_copy(update={"steps": steps}) for role, job in recipe.jobs.items()}
    averaged = recipe.optimization.model_copy(update={"ema_decays": (0.998,), "checkpoint_every": 250})
    watching = recipe.watching.model_copy(update={"sample_every": 0})
    return recipe.model_copy(update={"jobs": jobs, "optimization": averaged, "watching": watching})


def job_of(role: Role, recipe: Recipe, home: Home, encode_id: str) -> TrainJob:
    name = default_run_name(role, encode_id, recipe)
    encoded = home.encoded(CARD, encode_id)
    return TrainJob(
        role=role, run_name=name, encode_id=encode_id, recipe=recipe, encoded=encoded, run_folder=home.run(name)
    )


def students_of(home: Home, version: int, steps: int, student_steps: int) -> dict[Role, TrainJob]:
    """The jobs of both students; what is encoded serves all."""
    recipe = students_recipe(steps, student_steps)
    encode_id = encode(CARD, version, recipe, home).encode_id
    return {role: job_of(role, recipe, home, encode_id) for role in ROLES}


def students_in(home: Home, student_steps: int) -> dict[Role, TrainJob]:
    """The finished jobs that an earlier run with --home left there, of whatever length.

    Raises:
        SystemExit: there are none.
    """
    found: dict[Role, TrainJob] = {}
    for path in sorted((home.root / "runs").glob("*/generator")):
        contract = GeneratorContract.load(path)
        if contract.distilled is not None and len(contract.distilled.timesteps) == student_steps:
            recipe = students_recipe(contract.trained_steps, student_steps)
            found[contract.role] = TrainJob(
                role=contract.role,
                run_name=path.parent.name,
                encode_id="",
                recipe=recipe,
                encoded=path,
                run_folder=path.parent,
            )
    if set(found) != set(ROLES):
        raise SystemExit(f"{home.root} holds no students of {student_steps} steps; few_steps.py --home makes them.")
    return found


def pair_of(jobs: Mapping[Role, TrainJob], plain: PanGuDrawPipeline) -> PanGuDrawPipeline:
    """The plain pair with the students of these jobs in the place of its halves."""
    own = {
        role: load_generator(jobs[role].run_folder / "generator")
        if role in jobs
        else (plain.generator(role), plain.contract(role))
        for role in ROLES
    }
    contracts = {role: contract for role, (_, contract) in own.items()}
    return join(
        own["structure"][0],
        own["texture"][0],
        contracts,
        plain.vae,
        plain.text_towers,
        next(iter(jobs.values())).recipe,
    )


def distil(job: TrainJob) -> None:
    """One half on one core; what is done stays done."""
    torch.set_num_threads(1)
    if not (job.run_folder / "outcome.json").is_file():
        manifest = EncodedManifest.load(job.encoded)
        pin_initial(job.run_folder, job.recipe, job.role, job.contract(manifest), manifest.encoders)
        work(job, World())


def both(steps: int, student_steps: int, home: Home) -> None:
    """Two processes that know nothing of each other."""
    own = ["--steps", str(steps), "--student-steps", str(student_steps), "--home", str(home.root)]
    started = [subprocess.Popen([sys.executable, __file__, *own, "--only", role]) for role in ROLES]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("A half could not be distilled.")


def seconds_a_picture(pair: PanGuDrawPipeline, steps: int) -> float:
    """Core-seconds of one picture, the least of five."""
    taken = []
    for number in range(6):
        began = time.process_time()
        pair("a fox", num_inference_steps=steps, guidance_scale=3.0, generator=torch.Generator().manual_seed(number))
        taken.append(time.process_time() - began)
    return min(taken[1:])


def drawn(pair: PanGuDrawPipeline, steps: int) -> list[Any]:
    noise = [torch.Generator().manual_seed(7) for _ in SHOWN]
    return list(pair(list(SHOWN), num_inference_steps=steps, guidance_scale=3.0, generator=noise).images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of each half")
    parser.add_argument(
        "--student-steps", type=int, nargs="+", default=[2, 1], help="of each half; the first has the goals"
    )
    parser.add_argument("--distil", action="store_true", help="make the students and end")
    parser.add_argument("--prompts", type=int, default=200, help="per language")
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--only", choices=ROLES, help="distil this half and end")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    home = Home((asked.home or Path(tempfile.mkdtemp(prefix="few-steps-"))).absolute())
    os.environ["PANGU_HOME"] = str(home.root)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    version = corpus(home)
    students = {number: students_of(home, version, asked.steps, number) for number in asked.student_steps}
    if asked.only:
        distil(students[asked.student_steps[0]][asked.only])
        return
    for number, jobs in students.items():
        both(asked.steps, number, home)
        spent = {role: read_spent(job.run_folder) for role, job in jobs.items()}
        cores = {role: round(one.core_s) for role, one in spent.items() if one is not None}
        print(f"core-seconds of training, {number} + {number}: {cores}", flush=True)
    if asked.distil:
        return

    plain, first = starter_pair(), asked.student_steps[0]
    few = first * len(ROLES)
    shown = {
        "20 steps, guided": (plain, 20),
        f"{few} steps, guided, not distilled": (plain, few),
        f"distilled, {first} + {first}": (pair_of(students[first], plain), few),
        f"structure distilled, {first} + 10": (pair_of({"structure": students[first]["structure"]}, plain), 20),
    }
    for number in asked.student_steps[1:]:
        shown[f"{number * len(ROLES)} steps, guided, not distilled"] = (plain, number * len(ROLES))
        shown[f"distilled, {number} + {number}"] = (pair_of(students[number], plain), number * len(ROLES))
    figures, rows = {}, []
    for name, (pair, steps) in shown.items():
        pair.set_progress_bar_config(disable=True)
        protocol = Protocol(
            prompts_per_language=asked.prompts,
            num_inference_steps=steps,
            guidance_scale=3.0,
            metrics=("retrieval", "fid"),
            split="held_out",
        )
        outcome = evaluate_whole(pair, name, home, CARD, version, protocol)
        figures[name] = outcome.metrics | {"seconds": seconds_a_picture(pair, steps)}
        rows.append(drawn(pair, steps))
        found = {key: round(figures[name][key], 4) for key in (TOP1, "memory_top1", FID, "seconds")}
        print(f"{name:36} {found}", flush=True)
    write_atomically(home.root / "few_steps.png", png(sample_grid(rows)))
    whole, _, student, *_ = figures.values()
    ratios = {
        "few_steps_top1": (student[TOP1] / whole[TOP1], TOP1_GOAL, True),
        "few_steps_fid": (student[FID] / whole[FID], FID_GOAL, False),
        "few_steps_time": (student["seconds"] / whole["seconds"], TIME_GOAL, False),
    }
    print(f"pictures in {home.root / 'few_steps.png'}")
    for name, (value, goal, at_least) in ratios.items():
        holds = value >= goal if at_least else value <= goal
        print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "holds": holds}))


if __name__ == "__main__":
    main()
