"""A home with a prepared dataset, of which some rows were dropped, and with a training under way."""

import io
from pathlib import Path

from PIL import Image

from pangu.config import Recipe, Role
from pangu.data.card import load_card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import PrepareOutcome, prepare
from pangu.image_grid import png
from pangu.recipes import tiny
from pangu.storage import Home, write_atomically, write_json
from pangu.train.history import HISTORY_FILE, SAMPLES_FOLDER, History
from pangu.train.job import JOB_FILE, TrainJob

NAME, DRAWINGS, STEPS = "pictures", 28, 40


def prepared(home: Home, folder: Path) -> PrepareOutcome:
    """28 drawings, every fourth one small, two of them again a little smaller, and one pulled wide."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number, one in enumerate(selection(DRAWINGS)):
        data = render_png(one, 48 if number % 4 == 3 else 128)
        _add(images, f"{number:02d}", data, one.caption_en, one.caption_zh)
        if number in (0, 1):
            _add(images, f"{number:02d}b", _resized(data, 120, 120), f"{one.caption_en} again", one.caption_zh)
        if number == 2:
            _add(images, f"{number:02d}w", _resized(data, 300, 100), f"wide {one.caption_en}", one.caption_zh)
    card = folder / f"{NAME}.yaml"
    card.write_text(
        f"name: {NAME}\nsource: images\ncolumns: {{caption_en: en, caption_zh: zh}}\nlicence: {{name: CC BY-SA 4.0}}\n"
        "texture_min_side: 64\nupscale: {target_side: 96, upscaler: lanczos, min_timestep: 300}\n"
        "filters: {max_aspect: 2, near_duplicates: {max_bits: 6, max_colour: 32}}\n"
    )
    parsed = load_card(card)
    return prepare(parsed, ingest(parsed, home).ingest_id, home)


def _add(folder: Path, stem: str, data: bytes, english: str, chinese: str) -> None:
    (folder / f"{stem}.png").write_bytes(data)
    write_json(folder / f"{stem}.json", {"en": english, "zh": chinese})


def _resized(data: bytes, width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((width, height)).save(sink, "PNG")
    return sink.getvalue()


def begin_training(home: Home, role: Role) -> Path:
    """The folder of a run as a worker leaves it after its first steps."""
    recipe: Recipe = tiny()
    jobs = {name: job.model_copy(update={"steps": STEPS}) for name, job in recipe.jobs.items()}
    recipe = recipe.model_copy(update={"jobs": jobs})
    folder = home.run(f"{role}-run")
    encoded = home.encoded(NAME, "0" * 16)
    job = TrainJob(
        role=role, run_name=folder.name, encode_id="0" * 16, recipe=recipe, encoded=encoded, run_folder=folder
    )
    write_json(folder / JOB_FILE, job.model_dump(mode="json"))
    go_on(folder, 10)
    return folder


def go_on(folder: Path, step: int) -> None:
    """One more log line and sample grid."""
    History(folder / HISTORY_FILE).add(step, {"loss": 1 / step, "loss/t0-499": 2 / step, "images_per_s": 20.0})
    grid = Image.new("RGB", (200, 100), (step * 5 % 256, 90, 120))
    write_atomically(folder / SAMPLES_FOLDER / f"step-{step:06d}.png", png(grid))
