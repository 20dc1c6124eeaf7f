"""The main job through the real parts with the tiny recipe, and what a second run of it finds already done."""

import json

import pytest
from PIL import Image
from rich.console import Console

from pangu.contract import GeneratorContract, check_pair
from pangu.data.table.delta import data_files, read_rows
from pangu.demo.run import DATASET, Summary, demo
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.stack import Stack
from pangu.stack.prefect_api import prefect_api
from pangu.storage import Home, read_json

pytestmark = pytest.mark.e2e

DRAWINGS = 32
BROKEN_URLS = 12


@pytest.fixture(scope="module")
def first(stack: Stack) -> Summary:
    return demo(Home(stack.home), "tiny", Console(quiet=True), DRAWINGS)


def outcomes(home: Home) -> dict[str, dict]:
    """What every stage of the newest flow run that deployed left behind."""
    newest = max((home.root / "flows").glob("*/deploy.json"), key=lambda path: path.stat().st_mtime_ns).parent
    return {path.stem: read_json(path) for path in newest.glob("*.json")}


def test_every_listed_image_is_accounted_for(first: Summary) -> None:
    assert first.images_listed == DRAWINGS + BROKEN_URLS
    assert first.images_ingested + sum(first.images_failed.values()) == first.images_listed
    assert first.dataset_rows == DRAWINGS
    assert (first.structure_rows, first.texture_rows) == (DRAWINGS, DRAWINGS // 2)
    assert first.images_upscaled == DRAWINGS // 2
    assert first.retrieval_candidates == DRAWINGS


def test_the_dashboard_shows_data_training_samples_gate_and_links(first: Summary, stack: Stack) -> None:
    with prefect_api(stack) as api:
        found = api.post("/artifacts/filter", json={"limit": 200}).raise_for_status().json()
    shown = {one["key"]: str(one["data"]) for one in found}
    stages = (
        "ingest",
        "prepare",
        "encode",
        "train-structure",
        "train-texture",
        "evaluate",
        "gate",
        "release",
        "deploy",
    )
    assert {f"{stage}-{kind}" for stage in stages for kind in ("progress", "outcome")} <= shown.keys()
    for key in ("train-structure-report", "train-texture-report", "samples-new-and-old"):
        assert "data:image/png;base64," in shown[key], key
    assert DATASET in shown["prepare-report"] and "## Gate: open" in shown["gate-decision"]
    version = f"{stack.mlflow_url}/#/models/pangu-pair/versions/{first.pair_version}"
    for address in (version, f"{stack.ray_dashboard_url}/#/jobs", f"{stack.serve_url}/studio"):
        assert f"({address})" in shown["links"]


def test_the_table_keeps_originals_apart(first: Summary, stack: Stack) -> None:
    home = Home(stack.home)
    originals = data_files(home, DATASET, first.dataset_version, upscaled=False)
    upscaled = data_files(home, DATASET, first.dataset_version, upscaled=True)
    assert not set(originals) & set(upscaled)
    rows = read_rows(home, DATASET, first.dataset_version, columns=["upscaled", "width", "caption_zh"])
    assert all(
        width == (96 if up else 128)
        for up, width in zip(*(rows[c].to_pylist() for c in ("upscaled", "width")), strict=True)
    )
    assert all(rows["caption_zh"].to_pylist())


def test_the_released_pair_is_a_pipeline_of_two_generators(first: Summary, stack: Stack) -> None:
    made = outcomes(Home(stack.home))
    pair = PanGuDrawPipeline.from_pretrained(made["evaluate"]["pair"])
    check_pair(pair.contract("structure"), pair.contract("texture"))
    for role in ("structure", "texture"):
        contract = GeneratorContract.load(Home(stack.home).run(made[f"train-{role}"]["run_name"]) / "generator")
        assert pair.contract(role) == contract
        assert contract.dataset_version == first.dataset_version


def test_the_served_images_and_the_sheet_are_there(first: Summary, stack: Stack) -> None:
    assert first.served_images == 2 * len(first.prompts) == 32
    with Image.open(stack.home / "demo" / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
    assert json.loads((stack.home / "demo" / "summary.json").read_text())["pair_version"] == first.pair_version


@pytest.mark.long
def test_a_second_run_does_nothing_twice(first: Summary, stack: Stack) -> None:
    again = demo(Home(stack.home), "tiny", Console(quiet=True), DRAWINGS)
    assert {name: outcome["already_done"] for name, outcome in outcomes(Home(stack.home)).items()} == dict.fromkeys(
        ("ingest", "prepare", "encode", "train-structure", "train-texture", "evaluate", "gate", "release", "deploy"),
        True,
    )
    assert (again.dataset_version, again.pair_version) == (first.dataset_version, first.pair_version)
    assert again.retrieval_top1 == first.retrieval_top1
