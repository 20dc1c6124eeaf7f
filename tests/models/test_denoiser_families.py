"""What every family of denoisers must be able to do; small random networks of the class that diffusers has."""

import re
import tomllib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pangu.config import DenoiserConfig, DenoiserShape, LoraConfig, NoiseSchedule, Recipe, Reuse
from pangu.config.denoiser_shapes import GROUP, SHAPES
from pangu.data.captions import Caption
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.models.compiled import compile_blocks
from pangu.models.denoisers import (
    FAMILIES,
    adapted_layers,
    build_denoiser,
    denoise,
    family_of,
    latent_channels,
    load_denoiser,
    text_channels,
)
from pangu.models.families.family import DenoiserInput
from pangu.models.lora import add_lora
from pangu.models.step_caches import StepCache
from pangu.planning.activations import step_bytes
from pangu.recipes import tiny
from pangu.train.loop import train_loop
from pangu.train.randomness import Batch
from pangu.train.step import loss_per_sample
from tests import subtests
from tests.train.rows import random_rows, smallest_recipe
from tests.waits import waits

DOCUMENT = Path(__file__).parents[2] / "docs/models.md"
CHANNELS = 4, 24, 12
FLOW = NoiseSchedule(prediction_type="flow_prediction")
SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": (8, 16), "attention": (False, True), "transformer_layers_per_block": (1, 1),
        "attention_head_dim": 8, "norm_num_groups": 4, "preset_embed_dim": 8,
    },
    "sd3": {}, "pixart": {}, "sana": {"num_cross_attention_heads": 2}, "flux": {"num_single_layers": 2},
    "qwen_image": {}, "z_image": {}, "wan": {"ffn_dim": 64},
}  # fmt: skip
CALLS: dict[str, Callable[..., Any]] = {
    "unet": lambda net, noisy, t, tokens, pooled: net(
        noisy, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.full((len(noisy), 1), 3.0)}
    ),
    "sd3": lambda net, noisy, t, tokens, pooled: net(
        hidden_states=noisy, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t
    ),
    "pixart": lambda net, noisy, t, tokens, pooled: net(
        noisy, tokens, t, added_cond_kwargs={"resolution": None, "aspect_ratio": None}
    ),
    "sana": lambda net, noisy, t, tokens, pooled: net(noisy, encoder_hidden_states=tokens, timestep=t),
    "flux": lambda net, noisy, t, tokens, pooled: packed(
        noisy,
        lambda given, ids: net(
            hidden_states=given, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t / 1000, img_ids=ids,
            txt_ids=torch.zeros(tokens.shape[1], 3),
        ),
    ),
    "qwen_image": lambda net, noisy, t, tokens, pooled: packed(
        noisy,
        lambda given, ids: net(
            hidden_states=given, encoder_hidden_states=tokens, timestep=t / 1000,
            img_shapes=[[(1, noisy.shape[2] // 2, noisy.shape[3] // 2)]] * len(noisy),
        ),
    ),
    "z_image": lambda net, noisy, t, tokens, pooled: SimpleNamespace(
        sample=-torch.stack(net(list(noisy.unsqueeze(2)), (1000 - t) / 1000, list(tokens)).sample).squeeze(2)
    ),
    "wan": lambda net, noisy, t, tokens, pooled: SimpleNamespace(sample=net(noisy.unsqueeze(2), t, tokens).sample.squeeze(2)),
}  # fmt: skip
"""How the classes are called by hand."""


def packed(noisy: Tensor, ask: Callable[[Tensor, Tensor], Any]) -> Any:
    """An answer about tokens of 2 x 2 latents, by the functions of diffusers' own pipeline."""
    pipeline: Any = diffusers.FluxPipeline
    batch, channels, height, width = noisy.shape
    ids = pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    answer = ask(pipeline._pack_latents(noisy, batch, channels, height, width), ids)
    answer.sample = pipeline._unpack_latents(answer.sample, height * 8, width * 8, 8)
    return answer


def shape_of(name: str) -> DenoiserShape:
    """A small shape, read as a recipe is."""
    sizes = {} if name == "unet" else {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    axes = {"axes_dims_rope": (4, 6, 6)} if "axes_dims_rope" in SHAPES[name].model_fields else {}
    values = tiny().model_dump() | {"denoiser": {"family": name} | sizes | axes | SMALL[name]}
    return Recipe.model_validate(values).denoiser


def small(name: str, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_denoiser(shape_of(name), *CHANNELS)


@lru_cache
def network_of(name: str) -> Any:
    """One for all tests that change nothing."""
    return small(name).eval().requires_grad_(False)


def question(batch: int = 2, height: int = 8, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    unit = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return unit(batch, 4, height, width), torch.tensor([999.25, 3.0])[:batch], unit(batch, 5, 24), unit(batch, 12)


def batch_of(device: str = "cpu") -> Batch:
    noisy, timestep, tokens, pooled = (tensor.to(device) for tensor in question())
    return Batch(noisy, noisy.flip(0), tokens, pooled, timestep, 3)


@subtests.parametrize("name", FAMILIES)
def test_a_recipe_builds_it_and_it_is_known_again(name: str) -> None:
    shape, network = shape_of(name), network_of(name)
    assert type(network) is getattr(diffusers, FAMILIES[name].network_class)
    assert family_of(network) is FAMILIES[name]
    assert (latent_channels(network), text_channels(network)) == (4, 24)
    assert FAMILIES[name].pooled_channels(network.config) in (None, 12)
    written = tiny().model_copy(update={"denoiser": shape})
    assert Recipe.model_validate_json(written.model_dump_json()) == written
    if name != "unet":
        for field in shape.model_fields_set & set(network.config):
            assert network.config[field] == getattr(shape, field), field
        with pytest.raises(ValidationError, match=f"denoiser of family {name}: num_layers: Input should be greater"):
            Recipe.model_validate(written.model_dump() | {"denoiser": {"family": name, "num_layers": 0}})
        with pytest.raises(UserError, match="has no place for the image of an earlier stage"):
            build_denoiser(shape, *CHANNELS, lower=True)


@subtests.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_prediction_is_that_of_the_class_called_by_hand(name: str) -> None:
    network, asked = network_of(name), question()
    found = denoise(network, *asked, preset=3)
    assert found.shape == asked[0].shape
    assert torch.equal(found, CALLS[name](network, *asked).sample)
    assert waits(lambda: denoise(network, *asked, preset=3)).total() == 0, "a GPU's host would wait there"
    whole = asked[0], torch.tensor([999, 3]), *asked[2:]
    assert torch.equal(
        denoise(network, *whole, preset=3), CALLS[name](network, whole[0], whole[1].float(), *whole[2:]).sample
    )


@subtests.parametrize("name", [name for name in FAMILIES if name not in ("sd3", "flux")])
@torch.no_grad()
def test_a_masked_token_says_nothing(name: str) -> None:
    network, (noisy, timestep, tokens, pooled) = network_of(name), question()
    mask = torch.tensor([[1.0, 1, 1, 0, 0]] * 2)
    first, second = (
        FAMILIES[name].predict(network, DenoiserInput(noisy, timestep, text, pooled, mask_bs=mask))
        for text in (tokens, torch.cat([tokens[:, :3], 5 * tokens[:, 3:]], dim=1))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    assert not torch.allclose(first, denoise(network, noisy, timestep, tokens, pooled, 0), atol=1e-4)


@torch.no_grad()
def test_published_transformers_are_told_sizes_and_what_they_guess_beside_is_left_aside() -> None:
    """PixArt-alpha at 1024 px predicts a variance and is told height, width and ratio in px; FLUX.1-dev a guidance scale."""
    shape = SHAPES["pixart"](num_layers=1, num_attention_heads=3, attention_head_dim=8, use_additional_conditions=True)  # type: ignore[call-arg]
    arguments = FAMILIES["pixart"].arguments(shape, *CHANNELS) | {"out_channels": 8}
    network, (noisy, timestep, tokens, pooled) = diffusers.PixArtTransformer2DModel(**arguments).eval(), question()
    sizes = {"resolution": torch.tensor([[64.0, 32.0]] * 2), "aspect_ratio": torch.tensor([[2.0]] * 2)}
    by_hand = network(noisy, tokens, timestep, added_cond_kwargs=sizes).sample
    assert torch.equal(denoise(network, noisy, timestep, tokens, pooled, 0), by_hand[:, :4])
    with pytest.raises(ValidationError, match="to be a multiple of 3"):
        SHAPES["pixart"](num_attention_heads=4, attention_head_dim=8, use_additional_conditions=True)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="x was distilled to be told a guidance scale"):
        FAMILIES["flux"].check_text({"guidance_embeds": True}, 24, 12, "x")


@subtests.parametrize("name", FAMILIES)
def test_its_loss_is_the_one_written_by_hand_and_reaches_every_weight(name: str) -> None:
    network, batch = small(name).train(), batch_of()
    share = (batch.timestep_b / 1000)[:, None, None, None]
    noisy = (1 - share) * batch.latents_bchw + share * batch.noise_bchw
    predicted = CALLS[name](network, noisy, batch.timestep_b, batch.tokens_bsc, batch.pooled_bp).sample
    expected = (predicted - (batch.noise_bchw - batch.latents_bchw)).square().mean((1, 2, 3))
    found = loss_per_sample(network, batch, training_levels(FLOW))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    silent = {
        own
        for own, weight in network.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.any())
    }
    # The text of the last block goes nowhere.
    queries = r"transformer_blocks\.1\.attn\.(add_q_proj|norm_added_q)\."
    dropped = {"sd3": queries, "qwen_image": queries + r"|transformer_blocks\.1\.(attn\.to_add_out|txt_mlp)\."}.get(
        name, "$^"
    )
    assert {own for own in silent if not re.match(dropped, own)} == set()
    unused = {id(weight) for module in FAMILIES[name].unused_modules(network) for weight in module.parameters()}
    assert {id(weight) for weight in network.parameters() if weight.requires_grad and weight.grad is None} == unused


@subtests.parametrize("name", FAMILIES)
@torch.no_grad()
def test_it_is_saved_and_loaded_as_diffusers_does(name: str, tmp_path: Path) -> None:
    network, asked = network_of(name), question()
    network.save_pretrained(tmp_path / "transformer")
    ours = load_denoiser(tmp_path, "transformer").eval()
    theirs = type(network).from_pretrained(tmp_path / "transformer").eval()
    assert type(ours) is type(network)
    assert torch.equal(denoise(ours, *asked, 0), denoise(theirs, *asked, 0))
    assert torch.equal(denoise(ours, *asked, 0), denoise(network, *asked, 0))
    over = FAMILIES[name].with_new_latents(ours, 6, lower=False, seed=0).eval()
    old, new = network.state_dict(), over.state_dict()
    changed = [own for own in new if new[own].shape != old[own].shape or not torch.equal(new[own], old[own])]
    assert 2 <= len(changed) <= 4, "all but the first and the last layer is kept"
    assert latent_channels(over) == 6 and denoise(over, torch.randn(2, 6, 8, 4), *asked[1:], 0).shape == (2, 6, 8, 4)
    for channels, sentence in (
        ((16, 12), "attends to 24 channels of text, but the text encoders give 16"),
        ((24, 12), ""),
    ):
        if sentence:
            with pytest.raises(UserError, match=sentence):
                FAMILIES[name].check_text(network.config, *channels, "x")
        else:
            FAMILIES[name].check_text(network.config, *channels, "x")
    with pytest.raises(UserError, match=r"x takes .*4.* channels, but the autoencoder has 5"):
        FAMILIES[name].check_latents(network.config, 5, False, "x")


@subtests.parametrize("name", FAMILIES)
def test_adapters_and_compilation_find_every_block(name: str) -> None:
    family, network = FAMILIES[name], small(name)
    blocks = [module for module in network.modules() if type(module).__name__ in family.blocks]
    assert {type(block).__name__ for block in blocks} == set(family.blocks)
    assert compile_blocks(network, "eager") == len(blocks) > 1
    if not family.lora_targets:
        with pytest.raises(UserError, match=f"{family.network_class} takes no adapters, so {name} is trained whole"):
            adapted_layers(LoraConfig(), network)
        return
    add_lora(network, adapted_layers(LoraConfig(rank=2), network), 0)
    adapted = [own.split(".lora_A")[0] for own, module in network.named_modules() if own.endswith("lora_A.default")]
    assert all(any(layer.endswith("." + target) for layer in adapted) for target in family.lora_targets)
    attentive = [block for block in blocks if type(block).__name__ != "ResnetBlock2D"]
    assert all(any("lora_A" in own for own, _ in block.named_modules()) for block in attentive)
    chosen = LoraConfig(rank=2, target_modules=("to_q",))
    assert adapted_layers(chosen, network) == chosen, "what a recipe names is kept"


@subtests.parametrize("name", FAMILIES)
@subtests.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_the_timestep_reaches_its_embedding_in_float32(name: str, dtype: torch.dtype) -> None:
    """bf16 would make 999.25 a 1000."""
    network, seen = small(name).to(dtype), []
    for module in network.modules():
        if type(module).__name__ in ("Timesteps", "TimestepEmbedder"):
            module.register_forward_pre_hook(lambda module, given: seen.append(given[0] * getattr(module, "scale", 1)))
    noisy, timestep, tokens, pooled = question()
    found = denoise(network, noisy.to(dtype), timestep, tokens.to(dtype), pooled.to(dtype), 3)
    assert found.dtype == dtype
    told = 1000 - timestep if name == "z_image" else timestep
    assert any(one.dtype == torch.float32 and torch.allclose(one, told, rtol=1e-6, atol=1e-4) for one in seen)


@subtests.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_size_that_it_can_not_draw_is_refused_and_all_others_are_drawn(name: str) -> None:
    family, network = FAMILIES[name], network_of(name)
    step, most = family.size_step(network.config), family.largest_size(network.config)
    assert denoise(network, *question(1, 3 * step, 4 * step), 0).shape[2:] == (3 * step, 4 * step)
    if step > 1:
        with pytest.raises(
            UserError, match=rf"family {name} draws latents in multiples of {step}, not {step + 1} x {step}\."
        ):
            denoise(network, *question(1, step + 1, step), 0)
    if most is not None:
        with pytest.raises(UserError, match=f"draws at most {most} x {most} latents here, not {most} x {most + step}"):
            denoise(network, torch.zeros(1, 4, 1, 1).expand(1, 4, most, most + step), *question(1)[1:], 0)


@subtests.parametrize("name", [name for name in FAMILIES if name != "unet"])
def test_the_attention_of_every_transformer_can_be_extrapolated(name: str) -> None:
    """All of it: whole in every layer for three steps, then in every second one."""
    network, passes = network_of(name), list[str]()
    places = [place for place, _ in network.named_modules() if re.search(r"\d\.(attn[12]?|attention)$", place)]
    for place in places:
        network.get_submodule(place).to_q.register_forward_pre_hook(lambda *_, place=place: passes.append(place))
    cache = StepCache(network, Reuse(kind="taylor", every=2))
    ask, (memory,) = cache.around(lambda *inputs: denoise(network, *inputs, preset=0)), cache.memories(1)
    noisy, _, tokens, pooled = question(1)
    whole = []
    for timestep in (900.0, 800.0, 700.0, 600.0, 500.0, 400.0):
        passes.clear()
        with torch.inference_mode():
            ask(noisy, torch.tensor([timestep]), tokens, pooled, torch.tensor([[float(memory.number), 0.0]]))
        whole.append(sorted(passes))
    cache.remove()
    assert len(places) >= 2 and whole == [sorted(places), sorted(places), sorted(places), [], sorted(places), []]


@pytest.mark.long
@subtests.parametrize("name", FAMILIES)
def test_the_planner_counts_it_on_the_meta_device(name: str) -> None:
    """The same operations as the network's own on a CPU, and the bytes of a step, without any weight."""
    with torch.device("meta"):
        weightless = build_denoiser(shape_of(name), *CHANNELS)
    counts = []
    for network in (weightless, network_of(name)):
        asked = (tensor.to(next(network.parameters()).device) for tensor in question(1))
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            denoise(network, *asked, preset=0)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    whole = step_bytes(weightless, batch_of("meta"), bf16=False, recomputes=False, gradients_apart=False)
    recomputed = step_bytes(weightless, batch_of("meta"), bf16=True, recomputes=True, gradients_apart=False)
    assert 0 < recomputed.kept < whole.kept < whole.peak


def families_table() -> list[str]:
    """The lines of the table of docs/models.md."""
    lines = [
        "| family | class of diffusers | size and preset | latents in multiples of | layers of adapters | blocks that compile |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, family in FAMILIES.items():
        named = [", ".join(f"`{one}`" for one in several) or "none" for several in (family.lora_targets, family.blocks)]
        cells = [
            f"`{name}`",
            f"`{family.network_class}`",
            family.size_told,
            str(family.size_step(network_of(name).config)),
            *named,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_table_of_the_documentation_is_that_of_the_registry() -> None:
    assert isinstance(DenoiserConfig(), FAMILIES["unet"].shape)
    assert {name: family.shape for name, family in FAMILIES.items()} == SHAPES
    assert "\n".join(families_table()) in DOCUMENT.read_text()


def example(language: str) -> str:
    """The block of that language in the documentation's last section."""
    section = DOCUMENT.read_text().split("\n## A family of your own\n")[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_example_of_the_documentation_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family from outside the package, as an installer leaves it."""
    (tmp_path / "my_denoisers.py").write_text(example("python"))
    named = tomllib.loads(example("toml"))["project"]["entry-points"][GROUP]
    points = [f"{name} = {value}" for name, value in named.items()] + ["broken = my_denoisers:absent"]
    metadata = tmp_path / "my_denoisers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-denoisers\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = smallest_recipe().model_dump() | yaml.safe_load(example("yaml"))
    read = Recipe.model_validate(recipe | {"schedule": FLOW.model_dump()})
    trained = train_loop("structure", read, random_rows(), "x", tmp_path / "checkpoints")
    assert trained.steps == 6 and type(trained.denoiser) is diffusers.AuraFlowTransformer2DModel
    found = denoise(trained.denoiser, *batch_of_rows(), 0)
    by_hand = trained.denoiser(batch_of_rows()[0], batch_of_rows()[2], batch_of_rows()[1] / 1000).sample
    assert torch.equal(found, by_hand)
    trained.denoiser.save_pretrained(tmp_path / "saved")
    assert family_of(load_denoiser(tmp_path / "saved")).name == "auraflow"
    for name, sentence in (("absent", "There is no denoiser family 'absent'; known are unet, sd3, .*auraflow"),
                           ("broken", "family 'broken' .* can not be imported")):  # fmt: skip
        with pytest.raises(ValidationError, match=sentence):
            Recipe.model_validate(recipe | {"denoiser": {"family": name}})


def batch_of_rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A question in the shapes of random rows."""
    rows = random_rows()
    tokens, pooled = rows.captions([0, 1], [Caption()] * 2)
    return rows.latents([0, 1]).float(), torch.tensor([700.0, 3.5]), tokens.float(), pooled.float()
