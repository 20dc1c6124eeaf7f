"""Styles that are adapters of a pair's halves: drawn as if they were in the weights, asked for by name, kept with the pair."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pangu.config import ROLES, Role
from pangu.errors import UserError
from pangu.evaluate.evaluation import networks_hash
from pangu.models.lora_formats import LowRank
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.registry.manifest import Manifest
from pangu.serve.inference.parts import capabilities_of, part_hashes
from tests.models.adapter_files import ATTENTION, by_hand, random_adapter, spelled
from tests.pipelines.drawing import PROMPTS, draw, seeds

EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
Adapters = Mapping[str, Mapping[Role, Mapping[str, LowRank]]]


@pytest.fixture(scope="module")
def adapters(shared_pair: PanGuDrawPipeline) -> Adapters:
    """`ink` on every layer of both halves, `oil` on the attention of texture alone."""
    structure, texture = (shared_pair.components[role] for role in ROLES)
    return {
        "ink": {"structure": random_adapter(structure, seed=1), "texture": random_adapter(texture, seed=2)},
        "oil": {"texture": random_adapter(texture, ATTENTION, seed=3)},
    }


@pytest.fixture
def styled(pair: PanGuDrawPipeline, adapters: Adapters, tmp_path: Path) -> PanGuDrawPipeline:
    """The pair with both styles, beside two that have prefixes."""
    for style, own in adapters.items():
        files = {}
        for role, layers in own.items():
            files[role] = tmp_path / f"{style}-{role}.safetensors"
            save_file(spelled(pair.components[role], layers, "peft"), files[role])
        pair.load_style(style, **files)
    return pair


def in_weights(pair: PanGuDrawPipeline, adapters: Adapters, scales: Mapping[str, float]) -> PanGuDrawPipeline:
    """A pair of copies whose weights have these styles."""
    networks = {role: copy.deepcopy(pair.components[role]) for role in ROLES}
    for style, scale in scales.items():
        for role, layers in adapters[style].items():
            networks[role].load_state_dict(by_hand(networks[role], layers, scale))
    rest = {name: part for name, part in pair.components.items() if name.endswith(("vae", "scheduler", "er", "er_2"))}
    return PanGuDrawPipeline(
        **(rest | networks), contracts=dict(pair.config.contracts), hidden_layers=pair.config.hidden_layers
    )


def test_styles_and_mixtures_are_drawn_as_if_they_were_in_the_weights(
    pair: PanGuDrawPipeline, styled: PanGuDrawPipeline, adapters: Adapters
) -> None:
    before = in_weights(pair, adapters, {})
    assert styled.styles == ("photo", "cartoon", "ink", "oil")
    plain = draw(before)
    assert torch.equal(draw(styled), plain), "nothing else changes a bit"
    assert torch.equal(draw(styled, styles={"ink": 0.0}), plain)
    for scales in ({"ink": 1.0}, {"oil": 0.5}, {"ink": 0.5, "oil": 0.5}):
        asked = draw(styled, styles=scales)
        torch.testing.assert_close(asked, draw(in_weights(pair, adapters, scales)), rtol=0, atol=2e-4)
        assert (asked - plain).abs().max() > 0.01
        said = zip(EMBEDS, styled.encode_prompt(PROMPTS), strict=True)
        options = {"generator": seeds(1, 2), "num_inference_steps": 5, "output_type": "pt"}
        given = styled(**dict(said), styles=scales, **options)
        torch.testing.assert_close(given.images, asked, rtol=0, atol=1e-5)
    prefixed = draw(styled, styles={"photo": 1.0, "ink": 1.0})
    expected = draw(in_weights(pair, adapters, {"ink": 1.0}), [f"a photo of {text}" for text in PROMPTS])
    torch.testing.assert_close(prefixed, expected, rtol=0, atol=2e-4)


def test_the_folder_keeps_the_styles_and_says_which_there_are(styled: PanGuDrawPipeline, tmp_path: Path) -> None:
    plain = networks_hash(PanGuDrawPipeline.from_pipe(styled, structure_styles=None, texture_styles=None))
    assert plain != networks_hash(styled)
    other = {"text_encoder_hashes": ["0" * 16]}
    told = {role: contract | other for role, contract in styled.config.contracts.items()}
    assert networks_hash(PanGuDrawPipeline.from_pipe(styled, contracts=told)) != networks_hash(styled)
    styled.save_pretrained(tmp_path / "pair")
    again = PanGuDrawPipeline.from_pretrained(tmp_path / "pair")
    scales = {"ink": 0.7, "oil": 0.3}
    assert torch.equal(draw(again, styles=scales), draw(styled, styles=scales))
    assert capabilities_of(tmp_path / "pair").styles == again.styles == ("cartoon", "photo", "ink", "oil")
    manifest = Manifest.of(tmp_path / "pair")
    assert {"structure_styles/config.json", "texture_styles/diffusion_pytorch_model.safetensors"} <= set(manifest.files)
    own = part_hashes(tmp_path / "pair", manifest)
    other = dict(manifest.files) | {"texture_styles/diffusion_pytorch_model.safetensors": "0" * 64}
    changed = part_hashes(tmp_path / "pair", Manifest(files=other))
    assert {part for part in own if own[part] != changed[part]} == {"structure", "texture", "coop"}
    half = again.to(torch.bfloat16)
    assert draw(half, styles=scales).isfinite().all(), "they follow the precision of the pair"


def test_what_is_no_style_of_this_pair_is_refused_in_a_sentence(
    styled: PanGuDrawPipeline, adapters: Adapters, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="Unknown style 'chalk'; this pair knows photo, cartoon, ink, oil"):
        draw(styled, styles={"chalk": 1.0})
    with pytest.raises(UserError, match="There is no adapter at"):
        styled.load_style("chalk", structure=tmp_path / "nowhere")
    with pytest.raises(UserError, match="'photo' of this pair has a prefix"):
        styled.load_style("photo", structure=tmp_path)
    contract = tmp_path / "for-texture"
    contract.mkdir()
    save_file(spelled(styled.texture, adapters["oil"]["texture"], "peft"), contract / "weights.safetensors")
    styled.contract("texture").save(contract)
    with pytest.raises(UserError, match=r"was trained for t in \[0, 500\) \(texture\)"):
        styled.load_style("chalk", structure=contract)
    smaller = copy.deepcopy(styled.structure_styles)
    smaller.config.layers[next(iter(smaller.config.layers))][0] += 1
    with pytest.raises(UserError, match="styles of structure were made for another network"):
        smaller.check(styled.structure, "structure")
