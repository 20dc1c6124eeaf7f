"""The pair matrix: its cells are what `evaluate` measures, structure draws once, and the best pair is proposed."""

from pathlib import Path

import pytest
from PIL import Image

from flows.pair_matrix import markdown
from pangu.contract import GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.evaluate.evaluation import evaluate, plan
from pangu.evaluate.matrix import MatrixOutcome, PairScore, matrix, rank, ranking_metrics
from pangu.evaluate.matrix_picture import Cell, figure, labels, shade
from pangu.evaluate.metrics import Judges
from pangu.progress import Progress
from tests.pipelines.transformers import flow_recipe, generator


@pytest.fixture(scope="module")
def protocol(bench):
    return plan(
        bench.recipe, bench.home, bench.dataset, bench.version, Judges(), metrics=["retrieval", "fid"],
        prompts_per_language=3, num_inference_steps=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(bench, structures, textures, protocol, tmp_path_factory):
    reports: list[Progress] = []
    outcome = matrix(
        structures, textures, bench.recipe, bench.dataset, bench.encode_id, bench.home, tmp_path_factory.mktemp("matrix"),
        reports.append, protocol,
    )  # fmt: skip
    return outcome, reports


def test_every_combination_has_the_numbers_of_evaluate(bench, structures, textures, protocol, measured) -> None:
    outcome, _ = measured
    assert {(one.structure, one.texture) for one in outcome.pairs} == {
        (str(structure), str(texture)) for structure in structures for texture in textures
    }
    alone = evaluate(
        structures[1], textures[0], bench.recipe, bench.dataset, bench.encode_id, bench.home, protocol=protocol
    )
    cell = next(one for one in outcome.pairs if one.pair_id == alone.pair_id)
    assert cell.metrics == alone.metrics
    assert outcome.protocol_hash == alone.protocol_hash


def test_a_structure_generator_draws_once_for_all_textures(structures, textures, measured) -> None:
    _, reports = measured
    stages = [one.stage.split("-")[0] for one in reports if one.done == one.total]
    splits_and_languages = 4
    assert stages.count("structure") == len(structures) * splits_and_languages
    assert stages.count("evaluate") == len(structures) * len(textures) * splits_and_languages


def test_the_table_and_the_picture_are_written(measured) -> None:
    outcome, _ = measured
    table = MatrixOutcome.model_validate_json(Path(outcome.table).read_text())
    assert table == outcome
    with Image.open(outcome.picture) as picture:
        assert picture.width > 600


@pytest.mark.long
def test_transformers_and_unets_stand_in_one_matrix_and_are_evaluated(bench, textures, tmp_path) -> None:
    """A structure half that predicts flows, before texture halves of two classes; each with the loss of its own interval."""
    flow = generator(tmp_path / "flow", "structure", flow_recipe())
    below = [textures[0], generator(tmp_path / "below", "texture", flow_recipe())]
    protocol = plan(
        bench.recipe, bench.home, bench.dataset, bench.version, Judges(), metrics=["retrieval", "loss"],
        prompts_per_language=2, num_inference_steps=5, loss_images=4, loss_buckets=2,
    )  # fmt: skip
    given = bench.recipe, bench.dataset, bench.encode_id, bench.home
    outcome = matrix([flow], below, *given, tmp_path / "matrix", protocol=protocol)
    assert {one.texture for one in outcome.pairs} == {str(each) for each in below}
    for texture in below:
        alone = evaluate(flow, texture, *given, protocol=protocol)
        cell = next(one for one in outcome.pairs if one.pair_id == alone.pair_id)
        assert cell.metrics == alone.metrics and cell.metrics["loss_texture"] > 0 and Path(alone.pair).is_dir()


@pytest.mark.long
def test_experts_between_stand_in_every_combination(bench, structures, tmp_path) -> None:
    """Two of one interval and one texture make two columns; each cell has the numbers of `evaluate`."""
    between = [bench.generator(f"between-{seed}", "texture", seed, TimeInterval(200, 500)) for seed in (21, 22)]
    for folder in between:
        GeneratorContract.load(folder).model_copy(update={"role": "middle"}).save(folder)
    low = bench.generator("low", "texture", 23, TimeInterval(0, 200))
    protocol = plan(
        bench.recipe, bench.home, bench.dataset, bench.version, Judges(), metrics=["retrieval", "loss"],
        prompts_per_language=2, num_inference_steps=6, loss_images=4, loss_buckets=2,
    )  # fmt: skip
    given = bench.recipe, bench.dataset, bench.encode_id, bench.home
    outcome = matrix([structures[0]], [low], *given, tmp_path / "matrix", protocol=protocol, middles=between)
    assert {one.middles for one in outcome.pairs} == {(str(each),) for each in between}
    assert len({one.metrics["loss_middle"] for one in outcome.pairs}) == 2
    alone = evaluate(structures[0], low, *given, protocol=protocol, middles=[between[0]])
    cell = next(one for one in outcome.pairs if one.pair_id == alone.pair_id)
    assert cell.metrics == alone.metrics and cell.middles == (str(between[0]),)
    with Image.open(outcome.picture) as picture:
        assert picture.width > 600
    assert MatrixOutcome.model_validate_json(Path(outcome.table).read_text()) == outcome
    told = markdown(outcome.model_dump(mode="json"))
    assert "| structure | middle | texture |" in told and "between-21" in told
    for middles, sentence in (([low], "make no pair"), ([*between, between[0]], "was given a --middle folder twice")):
        with pytest.raises(UserError, match=sentence):
            matrix([structures[0]], [low], *given, tmp_path / "none", protocol=protocol, middles=middles)


def pair(name: str, **metrics: float) -> PairScore:
    return PairScore(structure=name, texture="t", pair_id=name, metrics=metrics)


def test_ties_fall_to_the_finer_numbers_and_lower_is_better_for_distances() -> None:
    first = pair("a", understanding_top1=0.5, understanding_top5=0.7, fid_inception=3.0)
    second = pair("b", understanding_top1=0.5, understanding_top5=0.8, fid_inception=4.0)
    by = ranking_metrics(first.metrics, None)
    assert by == ("understanding_top1", "understanding_top5")
    assert rank([first, second], by) == [second, first]
    assert rank([first, second], ranking_metrics(first.metrics, "fid_inception")) == [first, second]


def test_the_worst_language_ranks_where_both_are_measured() -> None:
    metrics = {"fid_inception_zh": 1.0, "fid_inception_en": 2.0, "fid_inception": 2.0, "retrieval_candidates": 9.0}
    assert ranking_metrics(metrics, None) == ("fid_inception",)


def test_bad_input_gets_one_sentence(bench, structures, textures, protocol, tmp_path) -> None:
    arguments = (bench.recipe, bench.dataset, bench.encode_id, bench.home, tmp_path)
    with pytest.raises(UserError, match="given a --texture folder twice"):
        matrix(structures, [textures[0], textures[0]], *arguments, protocol=protocol)
    with pytest.raises(UserError, match="needs at least one --structure folder"):
        matrix([], textures, *arguments, protocol=protocol)
    with pytest.raises(UserError, match="texture-3 make no pair: The structure side of the pair was given a generator"):
        matrix([*structures, textures[1]], textures, *arguments, protocol=protocol)
    with pytest.raises(UserError, match="--rank-by 'beauty' is not measured; choose from"):
        ranking_metrics({"fid_inception": 1.0}, "beauty")


def test_labels_leave_out_what_all_folders_share() -> None:
    assert labels(["/a/runs/s-1/generator", "/a/runs/s-2/generator"]) == {
        "/a/runs/s-1/generator": "s-1", "/a/runs/s-2/generator": "s-2",
    }  # fmt: skip
    assert labels(["/a/x", "/a/x/y"]) == {"/a/x": "x", "/a/x/y": "y"}


def test_shades_follow_the_score() -> None:
    cells = [Cell("s", f"t{score}", score, 0, ()) for score in (0.0, 0.5, 1.0)]
    light, middle, dark = (sum(bytes.fromhex(shade(score, cells, "retrieval_top1")[1:])) for score in (0.0, 0.5, 1.0))
    assert light > middle > dark
    assert shade(0.0, cells, "fid_inception") == shade(1.0, cells, "retrieval_top1")
    assert figure(0.5) == "0.500"
    assert figure(123.456) == "123.5"
