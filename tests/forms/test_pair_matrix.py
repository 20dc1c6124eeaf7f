"""The pair matrix in the dashboard, from an outcome as `pangu pair-matrix` leaves it; without a server."""

import json
from pathlib import Path

from PIL import Image

from flows.pair_matrix import compare_halves, markdown
from flows.stages import between
from flows.train_generators import experts_of
from pangu.evaluate.matrix import MatrixOutcome, PairScore
from pangu.evaluate.matrix_picture import Cell, draw
from pangu.evaluate.protocol import Protocol
from pangu.image_grid import png
from pangu.recipes import tiny
from tests.forms.test_release_report import pictures

NEW = {"structure": "/home/runs/structure-1/generator", "texture": "/home/runs/texture-1/generator"}
OLD = {"structure": "/home/fetched/pangu-structure-3", "texture": "/home/fetched/pangu-texture-4"}


def outcome(folder: Path) -> dict:
    """Four pairs, the best one of the new structure and the old texture."""
    scores = {(NEW["structure"], OLD["texture"]): 0.9, (NEW["structure"], NEW["texture"]): 0.8}
    scores |= {(OLD["structure"], OLD["texture"]): 0.6, (OLD["structure"], NEW["texture"]): 0.5}
    pairs = tuple(
        PairScore(structure=structure, texture=texture, pair_id="p", metrics={"retrieval_top1": value, "other": 1.0})
        for (structure, texture), value in scores.items()
    )
    image = Image.new("RGB", (64, 64), "red")
    cells = [Cell(*names, value, place, (image,)) for place, (names, value) in enumerate(scores.items())]
    protocol = Protocol(num_inference_steps=2, guidance_scale=3.0)
    (folder / "matrix.png").write_bytes(png(draw(cells, "retrieval_top1", protocol.digest())))
    made = MatrixOutcome(
        ranked_by=("retrieval_top1",), best=pairs[0], pairs=pairs, protocol=protocol,
        protocol_hash=protocol.digest(), table="", picture=str(folder / "matrix.png"),
    )  # fmt: skip
    return made.model_dump(mode="json")


def test_a_table_names_the_halves_best_pair_first_under_the_picture(tmp_path: Path) -> None:
    text = markdown(outcome(tmp_path))
    (picture,) = pictures(text)
    assert min(picture.size) > 100
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| structure | texture | retrieval_top1 |"
    assert table[2] == "| runs/structure-1/generator | fetched/pangu-texture-4 | 0.9 |"
    assert table[-1].endswith("| 0.5 |") and len(table) == 6
    assert len(text) < 200_000


def test_without_another_champion_nothing_is_drawn() -> None:
    arguments = ("card", "structure", "texture", "tiny", "id", [])
    compare_halves({"champion_version": None, "already_done": False}, *arguments)
    compare_halves({"champion_version": 3, "already_done": True}, *arguments)


def test_the_flows_train_every_expert_that_a_recipe_lists(tmp_path: Path) -> None:
    jobs = tiny().model_dump(mode="json")["jobs"]
    three = tiny().model_dump(mode="json") | {"jobs": jobs | {"middle": jobs["texture"]}, "further_boundaries": [200]}
    (tmp_path / "three.json").write_text(json.dumps(three))
    assert experts_of(str(tmp_path / "three.json")) == ("structure", "middle", "texture")
    assert experts_of("tiny") == experts_of("single") == ("structure", "texture")
    assert between(["a", "b"]) == ["--middle", "a", "--middle", "b"] and not between([])
