"""`evaluate` on untrained generators of the tiny recipe: what it reports, and that halves draw what the pipeline draws."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.contract import GeneratorContract
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.evaluate.eval_set import gather
from pangu.evaluate.evaluation import evaluate, plan
from pangu.evaluate.generate import alone, draw, draw_whole, ready, structure_half, texture_half
from pangu.evaluate.metrics import Judges
from pangu.evaluate.protocol import Protocol
from pangu.pipelines.assemble import untrained_pair
from pangu.serve.inference.parts import capabilities_of
from tests import subtests
from tests.small_dataset import commit_rows, row

checks = subtests.Checks()


STEPS = 3


@pytest.fixture(scope="module")
def protocol(bench) -> Protocol:
    metrics = ["retrieval", "fid", "kid", "loss"]
    return plan(
        bench.recipe, bench.home, bench.dataset, bench.version, Judges(), metrics=metrics, prompts_per_language=4,
        num_inference_steps=STEPS, loss_images=4, loss_buckets=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcome(bench, structures, textures, protocol):
    return evaluate(
        structures[0], textures[0], bench.recipe, bench.dataset, bench.encode_id, bench.home, protocol=protocol
    )


@checks
def held_out_rows_are_measured_beside_trained_ones(outcome) -> None:
    metrics = outcome.metrics
    assert outcome.protocol.split == "held_out"
    assert (metrics["retrieval_candidates"], metrics["memory_candidates"], metrics["understanding_candidates"]) == (
        14, 8, 6,
    )  # fmt: skip
    assert metrics["understanding_prompts"] == metrics["memory_prompts"] == 4
    for name in ("retrieval", "memory", "understanding"):
        for part in ("top1", "top5"):
            by_language = [metrics[f"{name}_{part}_{language}"] for language in ("zh", "en")]
            assert metrics[f"{name}_{part}"] == min(by_language)
            assert 0 <= metrics[f"{name}_{part}"] <= 1


@checks
def the_pair_proposes_captions_of_the_training_split_to_whoever_asks(bench, outcome) -> None:
    rows = read_rows(bench.home, bench.dataset, bench.version, columns=["caption_en", "caption_zh"], split="train")
    proposed = capabilities_of(Path(outcome.pair)).prompts
    for language in ("zh", "en"):
        trained = [text for text in rows[f"caption_{language}"].to_pylist() if len(text) <= 40]
        assert sorted(proposed[language]) == sorted(set(trained)) and 0 < len(trained) <= 24


@checks
def distances_are_named_after_their_space_and_the_worse_language_counts(outcome) -> None:
    metrics = outcome.metrics
    assert "fid" not in metrics
    assert metrics["fid_thumbnail-16"] == max(metrics["fid_thumbnail-16_zh"], metrics["fid_thumbnail-16_en"])
    assert metrics["kid_thumbnail-16"] > 0


@checks
def each_generator_is_measured_on_its_own_timesteps(outcome) -> None:
    buckets = {name for name in outcome.metrics if re.fullmatch(r"loss_.*_t\d+", name)}
    assert buckets == {"loss_structure_t500", "loss_structure_t750", "loss_texture_t000", "loss_texture_t250"}
    halves = [outcome.metrics["loss_structure_t500"], outcome.metrics["loss_structure_t750"]]
    assert outcome.metrics["loss_structure"] == pytest.approx(np.mean(halves))


@checks
def the_same_protocol_is_measured_once(bench, structures, textures, protocol, outcome) -> None:
    arguments = (structures[0], textures[0], bench.recipe, bench.dataset, bench.encode_id, bench.home)
    again = evaluate(*arguments, protocol=protocol)
    assert again.already_done
    assert again.metrics == outcome.metrics
    weights = Path(outcome.pair) / "texture/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    remade = evaluate(*arguments, protocol=protocol)
    assert remade == outcome and weights.read_bytes() == whole
    other = evaluate(*arguments, protocol=protocol.model_copy(update={"split": "train", "metrics": ("retrieval",)}))
    assert not other.already_done
    assert other.pair_id == outcome.pair_id
    assert other.protocol_hash != outcome.protocol_hash
    assert "understanding_top1" not in other.metrics
    for name in ("retrieval_top1_zh", "retrieval_similarity_en"):
        assert other.metrics[name] == outcome.metrics[name]
    with Image.open(outcome.sample_grid) as both, Image.open(other.sample_grid) as trained:
        assert both.height > trained.height


@pytest.mark.long
def test_another_dataset_is_measured_for_itself(bench, structures, textures, protocol, tmp_path) -> None:
    """A pair that says what it was trained on, by one protocol over its own dataset and over a smaller one."""
    version = commit_rows(bench.home, [row(one, False) for one in selection(8)], name="other")
    encoded = encode("other", version, bench.recipe, bench.home).encode_id
    halves = []
    for half in (structures[0], textures[0]):
        halves.append(shutil.copytree(half, tmp_path / half.name))
        told = {"dataset": bench.dataset, "dataset_version": bench.version}
        GeneratorContract.load(half).model_copy(update=told).save(halves[-1])
    asked = protocol.model_copy(update={"split": "train", "metrics": ("retrieval",)})
    found = [
        evaluate(*halves, bench.recipe, *where, bench.home, protocol=asked)
        for where in ((bench.dataset, bench.encode_id), ("other", encoded), (bench.dataset, bench.encode_id))
    ]
    assert [one.metrics["retrieval_candidates"] for one in found] == [14, 8, 14]
    assert [one.already_done for one in found] == [False, False, True]


@checks
def two_halves_draw_what_the_pipeline_draws_and_can_be_finished_twice(bench, protocol) -> None:
    pair = ready(untrained_pair(bench.recipe), protocol)
    material = gather(bench.home, bench.dataset, bench.version, protocol, bench.recipe.structure.resolution)
    whole = draw_whole(pair, material, protocol)
    drawers = alone(pair)
    halfway = structure_half(drawers, material, protocol)
    for halves in (draw(drawers, material, protocol), *(texture_half(drawers, halfway, material) for _ in range(2))):
        assert halves.keys() == whole.keys()
        for key, images in halves.items():
            for one, other in zip(images, whole[key], strict=True):
                assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.long
@subtests.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_halves_keep_the_scheduler_s_history_and_noise(bench, protocol, scheduler) -> None:
    changed = protocol.model_copy(update={"scheduler": scheduler, "prompts_per_language": 2, "num_inference_steps": 5})
    pair = ready(untrained_pair(bench.recipe), changed)
    material = gather(bench.home, bench.dataset, bench.version, changed, 96)
    whole, drawers = draw_whole(pair, material, changed), alone(pair)
    halfway = structure_half(drawers, material, changed)
    texture_half(drawers, halfway, material)
    again = texture_half(drawers, halfway, material)
    for key, images in whole.items():
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, again[key], strict=True))


@checks
def bad_protocols_get_one_sentence(bench, protocol) -> None:
    pair = untrained_pair(bench.recipe)
    with pytest.raises(UserError, match="no scheduler 'Nothing'"):
        ready(pair, protocol.model_copy(update={"scheduler": "Nothing"}))
    place = (bench.recipe, bench.home, bench.dataset, bench.version, Judges())
    with pytest.raises(UserError, match="There is no metric 'fiid'; choose from retrieval, fid"):
        plan(*place, metrics=["fiid"])
    with pytest.raises(UserError, match="'clip' needs a network of its own; name one with --clip"):
        plan(*place, metrics=["clip"])
    with pytest.raises(UserError, match="'is' needs a network of its own; name one with --inception"):
        plan(*place, metrics=["is"])


@checks
def images_do_not_depend_on_how_many_prompts_there_are(bench, protocol) -> None:
    """Image i has seed + i, whatever its batch: a protocol of more prompts begins with another choice, not other noise."""
    pair = ready(untrained_pair(bench.recipe), protocol)
    conditioning = pair.encode_prompt(["fox", "lemon"])
    sources = [torch.Generator().manual_seed(7), torch.Generator().manual_seed(8)]
    size = {"height": 96, "width": 96, "num_inference_steps": 2, "guidance_scale": 1.0}
    both = pair.start(conditioning, generators=sources, **size).latents_bchw
    alone = pair.start(pair.encode_prompt(["lemon"]), generators=[torch.Generator().manual_seed(8)], **size)
    assert torch.equal(both[1], alone.latents_bchw[0])


test_evaluation = checks.test()
