"""What the dashboard shows of a pair, from outcomes and pictures as the stages leave them; without a server."""

import base64
import io
from pathlib import Path

from PIL import Image

from flows.release_report import HEIGHT, links, samples
from flows.training_report import LONGEST_SIDE
from pangu.image_grid import GAP, png, sample_grid, whole_columns
from tests import subtests

checks = subtests.Checks()

ENVIRONMENT = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"}


def grid(path: Path, side: int, colour: str, columns: int = 24) -> str:
    path.write_bytes(png(sample_grid([[Image.new("RGB", (side, side), colour)] * columns] * 3)))
    return str(path)


def pictures(text: str) -> list[Image.Image]:
    coded = [part.split(")")[0] for part in text.split("data:image/png;base64,")[1:]]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in coded]


@subtests.parametrize("side", [16, 96, 512])
def test_new_and_old_samples_stand_above_each_other_small_enough_for_a_database(tmp_path: Path, side: int) -> None:
    evaluated = {"pair_id": "abc", "sample_grid": grid(tmp_path / "new.png", side, "red")}
    decided = {"champion_version": 4, "champion_grid": grid(tmp_path / "old.png", side, "blue")}
    text = samples(evaluated, decided)
    new, old = pictures(text)
    assert text.index("abc, the new pair") < text.index("The champion, version 4")
    assert new.size == old.size and new.width <= LONGEST_SIDE and new.height <= HEIGHT
    middle = (new.height // 6, new.height // 6)
    assert new.getpixel(middle) == (255, 0, 0) and old.getpixel(middle) == (0, 0, 255)
    assert len(text) < 200_000


@checks
def a_strip_ends_between_two_pictures_and_says_what_its_rows_and_columns_are(tmp_path: Path) -> None:
    rows = [[Image.new("RGB", (96, 96), "red")] * 24] * 3
    captions = [f"fox {number}" for number in range(24)]
    sheet = sample_grid(rows, named=["English captions", "Chinese captions", "the true pictures"], captions=captions)
    (tmp_path / "new.png").write_bytes(png(sheet))
    text = samples({"pair_id": "abc", "sample_grid": str(tmp_path / "new.png")}, {"champion_version": None})
    (picture,) = pictures(text)
    assert (
        picture.size == (GAP + 8 * (96 + GAP), sheet.height) and picture.getpixel((picture.width - 1, 50)) == (255,) * 3
    )
    assert "Rows: English captions, Chinese captions, the true pictures. Columns (the first 8 of 24): fox 0; " in text
    assert text.rstrip().endswith("fox 7.")
    assert whole_columns(Image.new("RGB", (900, 300)), 840)[1] == 0, "a picture that says nothing stays as it is"


@checks
def without_a_champion_and_against_itself_there_is_one_picture(tmp_path: Path) -> None:
    evaluated = {"pair_id": "abc", "sample_grid": grid(tmp_path / "new.png", 32, "red", columns=2)}
    assert len(pictures(samples(evaluated, {"champion_version": None, "champion_grid": ""}))) == 1
    itself = samples(evaluated, {"champion_version": 4, "champion_grid": "", "already_done": True})
    assert len(pictures(itself)) == 1 and "version 4, the champion itself" in itself


@checks
def links_lead_to_every_version_the_jobs_and_what_is_served() -> None:
    released = {"pair_version": 7, "structure_version": 5, "texture_version": 6}
    served = {"pair_version": 7, "url": "http://127.0.0.1:8000"}
    text = links({"release": released, "deploy": served}, ENVIRONMENT)
    for address in (
        "http://127.0.0.1:5000/#/models/pangu-pair/versions/7", "http://127.0.0.1:5000/#/models/pangu-structure/versions/5",
        "http://127.0.0.1:5000/#/models/pangu-texture/versions/6", "http://127.0.0.1:8265/#/jobs",
        "http://127.0.0.1:8000/v1/models", "http://127.0.0.1:8000/studio",
    ):  # fmt: skip
        assert f"({address})" in text
    assert "Served" not in links({"release": released}, ENVIRONMENT)


test_release_report = checks.test()
