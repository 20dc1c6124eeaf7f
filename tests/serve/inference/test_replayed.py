"""Generators that are replayed or compiled: filled batches, all of them ready before the first request, and the same pictures."""

import asyncio
import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from pangu.config import ROLES, Recipe
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.serve.inference import readiness
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import Release, ReleaseRouting
from pangu.serve.inference.padding import batch_sizes, padded
from pangu.serve.inference.parts import load_unchecked, release_of
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import PoolSettings, ServeSettings
from tests import subtests
from tests.serve.inference.test_finite import asked
from tests.tape import Tape

SIZES = (1, 2, 4, 8, 16)
PRESETS = 11


def recipe() -> Recipe:
    plain = tiny()
    shaped = {role: job.model_copy(update={"presets": "published"}) for role, job in plain.jobs.items()}
    return plain.model_copy(update={"jobs": shaped})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of many presets."""
    found: Path = tmp_path_factory.mktemp("replayed") / "pair"
    save_pair(untrained_pair(recipe()), found)
    return found


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of one preset."""
    found: Path = tmp_path_factory.mktemp("replayed") / "pair"
    save_pair(untrained_pair(tiny()), found)
    return found


@pytest.fixture(scope="module")
def pair(folder: Path) -> PanGuDrawPipeline:
    return PanGuDrawPipeline.from_pretrained(folder)


@contextmanager
def studio(tape: Tape | None, load: Any = load_unchecked, **settings: Any) -> Iterator[LocalEngine]:
    pool = PoolSettings(threads=1, **settings)
    asks = ServeSettings(structure=pool, texture=pool, cache_bytes=0)
    drawing = LocalEngine(asks, Metrics(), load=load, record=tape)
    yield drawing
    drawing.close()


def taken(drawing: LocalEngine, release: Release) -> None:
    asyncio.run(drawing.take(ReleaseRouting(champion=release)))
    assert drawing.warmed == {release.sha256}


def drawn(drawing: LocalEngine, **fields: Any) -> list[bytes]:
    answer = asked(drawing, Metrics(), **fields)
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(image["b64_json"]) for image in answer.json()["data"]]


@given(st.integers(1, 40))
def test_sizes_double_up_to_the_most(most: int) -> None:
    sizes = batch_sizes(most)
    assert sizes[0] == 1 and sizes[-1] == most
    assert all(one < other <= 2 * one for one, other in pairwise(sizes))


def rows_of(pair: PanGuDrawPipeline, rows: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator, config = torch.Generator().manual_seed(seed), pair.structure.config
    pooled = config.projection_class_embeddings_input_dim - config.addition_time_embed_dim
    shapes = (rows, config.out_channels, 6, 6), (rows, 16, config.cross_attention_dim), (rows, pooled)
    noisy, tokens, text = (torch.randn(*shape, generator=generator) for shape in shapes)
    return noisy, torch.randint(500, 1000, (rows,), generator=generator), tokens, text


@given(st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_rows_that_fill_a_batch_change_no_bit_of_the_others(pair: PanGuDrawPipeline, rows: int, seed: int) -> None:
    called: list[int] = []
    network = pair.denoiser("structure", 0)

    def counted(*batch: torch.Tensor) -> torch.Tensor:
        called.append(len(batch[0]))
        return network(*batch)

    with torch.inference_mode():
        batch = rows_of(pair, rows, seed)
        filled = padded(counted, SIZES)(*batch)
        size = next((size for size in SIZES if size >= rows), rows)
        assert called == [size] and len(filled) == rows
        others = [torch.cat([own, other]) for own, other in zip(batch, rows_of(pair, size, seed + 100), strict=True)]
        assert torch.equal(filled, network(*(each[:size] for each in others))[:rows])
        torch.testing.assert_close(filled, network(*batch), rtol=0, atol=1e-4)


@pytest.mark.long
def test_every_shape_and_batch_is_recorded_before_the_first_request_and_none_afterwards(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asks: list[dict[str, Any]] = [
        {"n": 3}, {"n": 1, "guidance_scale": 1}, {"n": 10}, {"size": "128x64"}, {"n": 2, "scheduler": "euler"}
    ]  # fmt: skip
    tape = Tape()
    with studio(tape, execution="captured", ready_within_s=600) as drawing:
        with caplog.at_level(logging.INFO, "pangu.serve"):
            taken(drawing, release_of(folder))
        assert len(set(tape.recorded)) == len(tape.recorded) / len(ROLES) == PRESETS * len(SIZES)
        assert f"version 0, texture: {PRESETS * len(SIZES)} of {PRESETS * len(SIZES)} shapes and batches" in caplog.text
        assert "version 0 drew its first image after" in caplog.text
        sizes = [f"{width}x{height}" for height, width in load_unchecked(release_of(folder), "structure").sizes]
        asks[3]["size"] = sizes[0]
        replayed = [drawn(drawing, **fields) for fields in asks]
        assert len(tape.recorded) == len(ROLES) * PRESETS * len(SIZES)
    with studio(None, execution="eager", pad_batches=True, ready_within_s=0) as drawing:
        taken(drawing, release_of(folder))
        assert [drawn(drawing, **fields) for fields in asks] == replayed


def test_a_release_that_shares_a_half_is_recorded_for_the_other_half_alone(square: Path, tmp_path: Path) -> None:
    save_pair(untrained_pair(tiny(), seed=1), tmp_path / "pair")
    first, other = release_of(square), release_of(tmp_path / "pair")
    second = other.model_copy(update={"parts": {**other.parts, "structure": first.parts["structure"]}})
    tape = Tape()
    with studio(tape, execution="captured", ready_within_s=600) as drawing:
        taken(drawing, first)
        before = len(tape.recorded)
        taken(drawing, second)
        assert len(tape.recorded) == before * 1.5
        asyncio.run(drawing.take(ReleaseRouting(champion=second, held=(first,))))
        assert drawing.pools["structure"]._ready == {first.parts["structure"]}


def test_what_time_does_not_allow_is_recorded_when_it_is_asked_for(square: Path) -> None:
    tape = Tape()
    with studio(tape, execution="captured", ready_within_s=0) as drawing:
        taken(drawing, release_of(square))
        # The first image, whose text, negative prompt included, makes two rows.
        assert [inputs[0][0] for inputs in tape.recorded] == [2, 2]
        drawn(drawing, n=2)
        drawn(drawing, n=2, seed=3)
        assert [inputs[0][0] for inputs in tape.recorded] == [2, 2, 4, 4]


@pytest.mark.long
def test_compiled_generators_draw_what_eager_ones_do(square: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pangu.models import compiled

    monkeypatch.setattr(compiled, "compile_blocks", partial(compiled.compile_blocks, backend="eager"))
    pictures = {}
    for how in ("eager", "compiled"):
        torch._dynamo.reset()
        counters.clear()
        with studio(None, execution=how, pad_batches=True, ready_within_s=0) as drawing:
            taken(drawing, release_of(square))
            pictures[how] = drawn(drawing, n=2)
        assert (counters["stats"]["unique_graphs"] > 0) == (how == "compiled")
    torch._dynamo.reset()
    assert pictures["eager"] == pictures["compiled"]


def test_a_gpu_captures_and_fills_batches_and_a_cpu_does_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, how, sizes in (("cpu", "eager", None), ("cuda", "captured", SIZES)):
        monkeypatch.setattr(readiness, "best_device", lambda device=device: torch.device(device))
        assert readiness.chosen("auto") == how
        assert readiness.sizes_of(PoolSettings()) == sizes
        assert readiness.sizes_of(PoolSettings(pad_batches=True, most_rows=24)) == (1, 2, 4, 8, 16, 24)
        assert readiness.sizes_of(PoolSettings(execution="compiled", pad_batches=False)) is None


@subtests.parametrize(
    ("own", "text", "width"),
    [
        ({}, {"projection_dim": 12}, 0),
        ({"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 20}, {"projection_dim": 12}, 12),
        ({"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 60}, {"hidden_size": 12}, 12),
        ({"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 60}, {"hidden_size": 13}, None),
    ],
)
def test_the_width_of_pooled_text_follows_from_the_configurations(
    own: dict[str, Any], text: dict[str, int], width: int | None, tmp_path: Path
) -> None:
    import json

    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder/config.json").write_text(json.dumps(text))
    assert readiness.pooled_channels({"addition_time_embed_dim": 8, **own}, tmp_path, "structure") == width
