"""A pair with quantised halves is a pair like any: whole, loaded, measured and released; and what lacks the kind says so."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.evaluate.evaluation import networks_hash
from pangu.exchange.network_weights import network_shape
from pangu.exchange.quantise_pair import QuantisedPair, quantise_pair
from pangu.models.denoisers import load_denoiser
from pangu.models.quantised import check_kind, kind_of
from pangu.pipelines.assemble import assemble_pair
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import recipe
from pangu.registry.manifest import Manifest
from pangu.starter.pair import starter_pair
from pangu.storage import Home, read_json
from tests import subtests


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, QuantisedPair]:
    home = Home(tmp_path_factory.mktemp("quantised"))
    return home, quantise_pair("embedded", "small", home)


def picture(pair: PanGuDrawPipeline) -> np.ndarray:
    pair.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(7)
    return np.asarray(pair("a fox", num_inference_steps=6, guidance_scale=3.0, generator=noise).images[0], np.float32)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one - other).mean()))


def test_linear_layers_are_int8_in_safetensors_and_the_picture_is_nearly_the_same(
    made: tuple[Home, QuantisedPair],
) -> None:
    home, outcome = made
    folder, plain = home.pair("small"), starter_pair()
    assert outcome.quantised == {"structure": "int8", "texture": "int8"}
    # 46 % of these weights are in linear layers, of which a quarter and the scales remain.
    assert 0.6 < outcome.bytes_after / outcome.bytes_before < 0.7
    assert {Path(name).suffix for name in Manifest.of(folder).files} <= {".safetensors", ".json", ".txt"}
    first, again = load_pair(folder), load_pair(folder)
    layer = first.structure.time_embedding.linear_1
    assert layer.weight.qdata.dtype == torch.int8 and first.structure.dtype == first.vae.dtype == torch.float32
    assert first.contract("texture").quantised == "int8" and plain.contract("texture").quantised is None
    drawn = picture(first)
    assert not np.array_equal(drawn, picture(plain)) and psnr(drawn, picture(plain)) > 35
    assert np.array_equal(drawn, picture(again)) and networks_hash(first) == networks_hash(again)
    assert networks_hash(first) != networks_hash(plain)


@pytest.mark.long
def test_its_halves_are_assembled_and_made_again_like_those_of_any_run(
    made: tuple[Home, QuantisedPair], tmp_path: Path
) -> None:
    home, _ = made
    folder = home.pair("small")
    halves = folder / "structure", folder / "texture"
    assert GeneratorContract.load(halves[0]).quantised == "int8"
    joined = assemble_pair(*halves, recipe("demo"), tmp_path / "pair")
    assert kind_of(read_json(tmp_path / "pair/texture/config.json"), "") == "int8"
    assert np.array_equal(picture(joined), picture(load_pair(folder)))
    assert np.array_equal(picture(load_pair(tmp_path / "pair")), picture(joined))
    assert quantise_pair("embedded", "small", home).already_done
    one = quantise_pair("embedded", "texture", home, halves=["texture"])
    mixed = load_pair(home.pair("texture"))
    assert one.quantised == {"texture": "int8"} and mixed.contract("structure").quantised is None
    assert mixed.structure.time_embedding.linear_1.weight.dtype == torch.float32


@subtests.parametrize(
    "attempt, sentence",
    [
        (
            lambda home: quantise_pair("embedded", "x", home, "fp8"),
            "fp8 weights need a CUDA device of compute capability",
        ),
        (lambda home: check_kind("nf4"), "nf4 weights need a CUDA device of compute capability 7.5"),
        (lambda home: quantise_pair("small", "x", home), r"is quantised \(int8\) already"),
        (lambda home: quantise_pair("embedded", "small", home, halves=["texture"]), "another pair 'small'"),
        (lambda home: quantise_pair("embedded", "x", home, halves=["middle"]), "embedded has no middle half"),
        (lambda home: network_shape(home.pair("small") / "texture"), "which can not be imported or exported"),
        (lambda home: kind_of({"quantization_config": {"quant_method": "gguf"}}, "Its half"), "not known here"),
    ],
    ids=["fp8", "nf4", "twice", "name", "half", "export", "unknown"],
)
def test_what_can_not_be_is_refused_in_one_sentence(made: tuple[Home, QuantisedPair], attempt, sentence: str) -> None:  # type: ignore[no-untyped-def]
    if torch.cuda.is_available():
        pytest.skip("this device may have those kinds")
    with pytest.raises(UserError, match=sentence):
        attempt(made[0])


def test_an_installation_without_torchao_names_the_extra(
    made: tuple[Home, QuantisedPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made[0].pair("small")
    monkeypatch.setattr("pangu.models.quantised.is_findable", lambda module: module != "torchao")
    for load in (lambda: load_pair(folder), lambda: load_denoiser(folder, "texture")):
        with pytest.raises(UserError, match=r"needs torchao; install PanGu with its extra `quantise`"):
            load()
    without = load_pair(folder, structure=None, texture=None)
    assert without.structure is None and without.contract("structure").quantised == "int8"
