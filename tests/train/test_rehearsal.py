"""What a start knows is drawn once, shown beside the dataset in its share, and is what the start draws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pangu.config import REHEARSAL, InitialWeights, LoraConfig, Recipe, Rehearsal
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.encoders import describe
from pangu.data.encode.stage import encode
from pangu.data.rows.load import load_rows
from pangu.errors import UserError
from pangu.recipes import demo, tiny
from pangu.starter.pair import starter_pair
from pangu.storage import Home, read_json, write_json
from pangu.train.job import TrainJob
from pangu.train.rehearsed_rows import pin_rehearsal, with_rehearsal
from pangu.train.sampler import DeterministicSampler
from pangu.train.samples_seen import seen
from pangu.train.starting_weights import pin_initial
from pangu.train.worker import work
from pangu.train.world import World
from tests.small_dataset import NAME
from tests.train.rows import random_rows

PROMPTS = ("fox", "狐狸")


def rehearsing(**asked: object) -> Recipe:
    recipe = demo()
    short = {"steps": 2, "batch_size": 4}
    return recipe.model_copy(
        update={
            "jobs": {role: job.model_copy(update=short) for role, job in recipe.jobs.items()},
            "lora": LoraConfig(rank=2),
            "rehearsal": Rehearsal(pictures=3, prompts=PROMPTS, share=0.75).model_copy(update=asked),
            "sampling": recipe.sampling.model_copy(update={"num_inference_steps": 2}),
            "watching": recipe.watching.model_copy(update={"sample_every": 0, "held_out_every": 0}),
        }
    )


@pytest.mark.long
def test_the_start_draws_what_it_knows_once_and_it_is_trained_on_in_its_share(small_home: Home) -> None:
    recipe = rehearsing()
    encode_id = encode(NAME, 0, recipe, small_home).encode_id
    encoded = small_home.encoded(NAME, encode_id)
    manifest = EncodedManifest.load(encoded)
    for role in ("structure", "texture"):
        run = small_home.run(role)
        job = TrainJob(role=role, run_name=role, encode_id=encode_id, recipe=recipe, encoded=encoded, run_folder=run)
        pin_initial(run, recipe, role, job.contract(manifest), manifest.encoders)
        with pytest.raises(UserError, match="lacks its rehearsal; start it with `pangu train`"):
            work(job, World())
        told = []
        pin_rehearsal(run, recipe, role, manifest.encoders, report=told.append)
        assert told[-1].done == told[-1].total == 3
        before = (run / REHEARSAL / "rows.safetensors").stat().st_mtime_ns
        pin_rehearsal(run, recipe, role, manifest.encoders)
        assert (run / REHEARSAL / "rows.safetensors").stat().st_mtime_ns == before
        own = load_rows(encoded, role, recipe)
        rows = with_rehearsal(own, NAME, run, recipe)
        first = len(own)
        assert len(rows) == first + 3 and rows.preset_n.unique().numel() == 1
        assert rows.latents([first]).shape == own.latents([0]).shape
        noise = torch.Generator().manual_seed(recipe.seed + 1)
        pair = starter_pair()
        alone = pair(
            PROMPTS[1], num_inference_steps=2, guidance_scale=3.0, generator=noise, output_type="latent"
        ).images
        torch.testing.assert_close(rows.latents([first + 1]), torch.as_tensor(alone), rtol=0, atol=5e-3)
        sampler = DeterministicSampler(tuple(rows.preset_n.tolist()), 4, 0, rows.shares)
        drawn = np.concatenate([sampler.rows_of(step) for step in range(200)])
        assert abs((drawn >= first).mean() - 0.75) < 0.03
        assert work(job, World()).steps == 2
        expected = np.bincount(np.concatenate([sampler.rows_of(step) for step in range(2)]), minlength=len(rows))
        found = seen(job, 2)
        assert found.times_n.tolist() == expected.tolist()
        assert found.totals()["datasets"][REHEARSAL]["images"] == int(expected[first:].sum())


def test_what_can_not_be_rehearsed_is_refused(tmp_path: Path) -> None:
    assert with_rehearsal(own := random_rows(), NAME, tmp_path, tiny()) is own
    with pytest.raises(
        ValidationError, match="rehearsal lets the pair draw that training starts from: name it in init_from"
    ):
        Recipe.model_validate(tiny().model_dump() | {"rehearsal": {}})
    pair = starter_pair()
    pair.save_pretrained(tmp_path / "pair")
    encoders = describe(pair.vae, pair.text_towers, demo().max_tokens)
    index = tmp_path / "pair/model_index.json"
    silent = rehearsing(prompts=()).model_copy(update={"init_from": InitialWeights(source=str(tmp_path / "pair"))})
    write_json(index, read_json(index) | {"prompts": {}})
    with pytest.raises(UserError, match=r"proposes no prompts; name in rehearsal\.prompts what it can draw"):
        pin_rehearsal(tmp_path / "run", silent, "structure", encoders)
    write_json(index, read_json(index) | {"prompts": {"en": ["fox"]}})
    registered = silent.model_copy(update={"init_from": InitialWeights(source="models:/pangu-pair@champion")})
    pin_rehearsal(tmp_path / "run", registered, "structure", encoders, lambda uri: tmp_path / "pair")
    assert read_json(tmp_path / "run" / REHEARSAL / "captions.json") == ["fox"] * 3
