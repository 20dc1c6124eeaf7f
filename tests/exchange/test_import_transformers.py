"""Transformers and SDXL's refiner as halves of imported pairs: diffusers' own pictures, and what starts from them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionXLImg2ImgPipeline,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from pangu.config import InitialWeights, NoiseSchedule
from pangu.config.denoiser_shapes import FluxShape
from pangu.contract import GeneratorContract
from pangu.data.encode.encoders import describe
from pangu.errors import UserError
from pangu.exchange.export_pair import export_pair
from pangu.exchange.import_pair import import_pair
from pangu.exchange.network_weights import load_network
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import family_of
from pangu.models.families.packing import pack
from pangu.models.init_weights import initial_denoiser
from pangu.models.lora import ADAPTER, fitted, put_adapter, save_lora
from pangu.models.lora_files import read_file
from pangu.models.original_transformers import LAYOUTS, is_written
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import starting_pair
from pangu.pipelines.experts_pipeline import load_pair
from pangu.recipes import recipe
from pangu.storage import Home
from pangu.train.loop import train_loop
from pangu.train.starting_weights import pin_initial, starting_network
from tests import subtests
from tests.exchange.test_import_pair import wan as wan_without_weights
from tests.models.adapter_files import random_adapter
from tests.pipelines.coop.small import (
    WIDTH,
    flux,
    quiet,
    sdxl,
    sdxl_parts,
    seeded,
    stable_diffusion_3,
    t5,
    text_config,
    tokenizer,
    unet,
)
from tests.pipelines.coop.small import vae as small_vae
from tests.train.test_transformer_pair import rows_of

CALL: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}


def with_t5(pipe: Any) -> Any:
    """Stable Diffusion 3 with its third text encoder, as wide as the two others together."""
    sizes = {
        "d_model": 2 * WIDTH,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": len(tokenizer()),
    }
    pipe.register_modules(text_encoder_3=seeded(4, T5EncoderModel, config=T5Config(**sizes)), tokenizer_3=tokenizer())
    return pipe


def sana() -> SanaPipeline:
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(tokenizer()),
    }  # fmt: skip
    transformer = seeded(
        1, SanaTransformer2DModel, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, sample_size=16,
        patch_size=1,
    )  # fmt: skip
    vae = seeded(
        2, AutoencoderDC, in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41,
    )  # fmt: skip
    parts = {"text_encoder": seeded(3, Gemma2Model, config=Gemma2Config(**sizes)), "tokenizer": tokenizer()}
    return quiet(
        SanaPipeline(transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **parts)
    )


def wan() -> WanPipeline:
    arguments: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
        "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 24, "num_layers": 1, "cross_attn_norm": True, "rope_max_seq_len": 32,
    }  # fmt: skip
    vae = seeded(
        2, AutoencoderKLWan, base_dim=3, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.3, 0.7], scale_factor_spatial=2, scale_factor_temporal=2,
    )  # fmt: skip
    return quiet(
        WanPipeline(
            tokenizer=tokenizer(), text_encoder=t5(), vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            transformer=seeded(3, WanTransformer3DModel, **arguments),
            transformer_2=seeded(4, WanTransformer3DModel, **arguments), boundary_ratio=0.875,
        )
    )  # fmt: skip


QWEN: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def qwen_image() -> QwenImagePipeline:
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    texts = QWEN | {"vocab_size": len(tokenizer()), "rope_parameters": rope}
    reader = seeded(
        3, Qwen2_5_VLForConditionalGeneration, config=Qwen2_5_VLConfig(text_config=texts, vision_config=seen)
    )  # fmt: skip
    transformer = seeded(
        1, QwenImageTransformer2DModel, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = seeded(
        2, AutoencoderKLQwenImage, base_dim=3, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.3, 0.7],
    )  # fmt: skip
    steps = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(QwenImagePipeline(steps, vae=vae, text_encoder=reader, tokenizer=tokenizer(), transformer=transformer))


def z_image() -> ZImagePipeline:
    talks = copy.deepcopy(tokenizer())
    talks.chat_template = "{% for said in messages %}<{{ said.role }}> {{ said.content }} {% endfor %}<assistant>"
    texts = Qwen3Config(**QWEN, head_dim=8, vocab_size=len(tokenizer()))
    transformer = seeded(
        1, ZImageTransformer2DModel, in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=WIDTH, axes_dims=[4, 6, 6],
    )  # fmt: skip
    reader, steps = seeded(3, Qwen3Model, config=texts), FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"vae": small_vae(2, scaling_factor=0.4, shift_factor=0.1), "text_encoder": reader, "tokenizer": talks}
    return quiet(ZImagePipeline(steps, transformer=transformer, **parts))


def pixart() -> PixArtSigmaPipeline:
    transformer = seeded(
        1, PixArtTransformer2DModel, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, caption_channels=WIDTH, sample_size=8, patch_size=2, norm_num_groups=4,
        use_additional_conditions=False,
    )  # fmt: skip
    levels = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    parts = {"vae": small_vae(2), "text_encoder": t5(), "tokenizer": tokenizer()}
    return quiet(PixArtSigmaPipeline(transformer=transformer, scheduler=levels, **parts))


PIPELINES: dict[str, Any] = {
    "sd3": lambda: with_t5(stable_diffusion_3(1)),
    "sd3-without-t5": lambda: stable_diffusion_3(1),
    "flux": lambda: flux(2, guidance_embeds=False),
    "flux-dev": lambda: flux(2),
    "pixart": pixart,
    "sana": sana,
    "wan": wan,
    "qwen_image": qwen_image,
    "z_image": z_image,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sd3": {"boundary": 600}, "sd3-without-t5": {"boundary": 600}, "flux": {"boundary": 700, "resolution": 16},
    "flux-dev": {"boundary": 700, "resolution": 16, "guidance": 5.0}, "pixart": {"boundary": 500},
    "sana": {"boundary": 500}, "wan": {"resolution": 16},
    "qwen_image": {"boundary": 700, "resolution": 16}, "z_image": {"boundary": 700, "resolution": 16},
}  # fmt: skip
TOLD: dict[str, dict[str, Any]] = {
    "flux": {"true_cfg_scale": 3.0, "guidance_scale": 1.0},
    "flux-dev": {"true_cfg_scale": 3.0, "guidance_scale": 5.0},
    "pixart": {"clean_caption": False, "use_resolution_binning": False},
    "sana": {"complex_human_instruction": None, "use_resolution_binning": False},
    "wan": {"num_frames": 1},
    # Its guidance also takes the length of the prediction back to that of the prompt's.
    "qwen_image": {"true_cfg_scale": 1.0, "guidance_scale": None},
    "z_image": {"guidance_scale": 2.0},
}


WRITTEN = [name for name in LAYOUTS if is_written(name)]


FIRST = ("flux",)


@subtests.parametrize("kind", FIRST)
def test_an_imported_transformer_draws_what_its_pipeline_draws(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    imported_and_drawn(kind, tmp_path, monkeypatch)


@pytest.mark.long
@subtests.parametrize("kind", sorted(PIPELINES.keys() - FIRST))
def test_each_other_imported_transformer_draws_it_too(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    imported_and_drawn(kind, tmp_path, monkeypatch)


@torch.no_grad()
def imported_and_drawn(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PANGU_HOME", str(tmp_path / "home"))
    original, home = PIPELINES[kind](), Home.from_environment()
    original.save_pretrained(tmp_path / kind)
    made = import_pair(str(tmp_path / kind), "pair", home, **OPTIONS[kind])
    assert import_pair(str(tmp_path / kind), "pair", home, **OPTIONS[kind]).already_done
    boundary = OPTIONS[kind].get("boundary", 875)
    assert made.intervals == {"structure": f"[{boundary}, 1000)", "texture": f"[0, {boundary})"}
    pair = load_pair(made.pair)
    pair.set_progress_bar_config(disable=True)
    family = kind.partition("-")[0]
    assert family_of(pair.structure).name == family_of(pair.texture).name == family
    original.scheduler = type(original.scheduler).from_config(pair.scheduler.config)
    side = 32 if kind == "sana" else 16
    noise = torch.randn(1, 4, side // 2, side // 2, generator=torch.Generator().manual_seed(0))
    size = {"height": side, "width": side}
    given = {"wan": noise[:, :, None], "flux": pack(noise), "qwen_image": pack(noise)}.get(family, noise)
    call = {"guidance_scale": 3.0} | TOLD.get(kind, {}) | CALL
    theirs = original("a fox", negative_prompt="", latents=given, **call, **size)[0]
    theirs = theirs[:, 0] if kind == "wan" else theirs
    # Some pipelines begin and end their steps elsewhere than their scheduler would.
    own = {} if family in ("sd3", "sana", "wan", "pixart") else {"sigmas": [1.0, 0.75, 0.5, 0.25]}
    call = {"guidance_scale": 1.0 if kind == "qwen_image" else 3.0} | CALL
    ours = pair("a fox", negative_prompt="", latents=noise, **call, **size, **own).images
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-3)
    assert ours.std() > 1e-3
    start = starting_pair(recipe(made.recipe))
    for role in ("structure", "texture"):
        ours_there, imported = start.generator(role).state_dict(), pair.generator(role).state_dict()
        assert all(torch.equal(tensor, imported[name]) for name, tensor in ours_there.items())
    if kind == family:
        _leaves(Path(made.pair), pair, tmp_path)
    with torch.enable_grad():
        _trains_from(made.recipe, tmp_path / "run", side // 2)


def _leaves(folder: Path, pair: Any, tmp_path: Path) -> None:
    """Its halves and an adapter are written so that diffusers' own classes open them, to the bit; it has no single file."""
    takes = family_of(pair.structure).lora_targets
    adapter = random_adapter(pair.structure, ("to_q", "to_v")) if takes else {}
    if takes:
        carrier = load_network(folder / "structure")
        put_adapter(carrier, ADAPTER, adapter)
        save_lora(carrier, pair.contract("structure"), tmp_path / "ink")
    out = Path(export_pair(folder, tmp_path / "out", adapters=[tmp_path / "ink"] if takes else ()).folder)
    for role in ("structure", "texture"):
        theirs = type(pair.structure).from_pretrained(out / role, use_safetensors=True).state_dict()
        assert all(torch.equal(theirs[name], weight) for name, weight in pair.generator(role).state_dict().items())
    if takes:
        written = read_file(out / "adapters/structure-ink/pytorch_lora_weights.safetensors")
        again = fitted(written, load_network(out / "structure"), pair.contract("structure"))
        assert again.keys() == adapter.keys()
        assert all(
            torch.equal(again[name].up, low.up) and torch.equal(again[name].down, low.down)
            for name, low in adapter.items()
        )
        assert all(name.startswith("transformer.") for name in written.tensors)
    exported = load_pair(out)
    assert type(exported) is type(pair) and exported.contract("texture") == pair.contract("texture")
    if type(pair.structure).__name__ in WRITTEN:
        _comes_back(folder, pair, tmp_path)
        return
    with pytest.raises(
        UserError, match=f"The original layout of a {type(pair.structure).__name__} is not written here"
    ):
        export_pair(folder, tmp_path / "single", original=True)


def _comes_back(folder: Path, pair: Any, tmp_path: Path) -> None:
    """Single files of its halves, in the layout of the original code, in place of the weights of the pipeline: the same bits."""
    made = export_pair(folder, tmp_path / "single", original=True)
    assert made.single_files == ["structure.safetensors", "texture.safetensors"]
    assert "No released model has the sizes of structure" in made.warnings[0]
    files = [str(tmp_path / "single/single_files" / name) for name in made.single_files]
    source = next(path.parent for path in tmp_path.glob("*/model_index.json") if (path.parent / "transformer").is_dir())
    options = {name: value for name, value in OPTIONS[source.name].items() if name != "guidance"}
    for weights in source.glob("transformer*/*.safetensors"):
        weights.unlink()
    again = import_pair(str(source), "again", Home.from_environment(), weights=files, **options)
    for role in ("structure", "texture"):
        back = load_pair(again.pair).generator(role).state_dict()
        assert all(torch.equal(back[name], weight) for name, weight in pair.generator(role).state_dict().items())
    with pytest.raises(UserError, match="--weights is given 3 times, but"):
        import_pair(str(source), "third", Home.from_environment(), weights=[*files, files[0]], **options)
    if source.name == "flux":  # as a start, of a recipe that names the pipeline
        left = recipe(again.recipe)
        start = InitialWeights(source=str(source), subfolder="transformer", weights=files[1])
        encoders = describe(
            load_autoencoder(left.autoencoder), [load_text_tower(one) for one in left.text_encoders], left.max_tokens
        )
        channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
        begun = left.model_copy(update={"init_from": start})
        network = initial_denoiser(begun, "texture", *channels, encoders.contract(begun, "texture"))
        assert all(
            torch.equal(network.state_dict()[name], weight) for name, weight in pair.texture.state_dict().items()
        )


def _trains_from(file: str, folder: Path, side: int) -> None:
    """One step of the recipe that was left, on the texture half: an adapter alone learns."""
    left = recipe(file)
    short = left.model_copy(
        update={"jobs": {role: job.model_copy(update={"steps": 1, "batch_size": 2}) for role, job in left.jobs.items()}}
    )
    towers = [load_text_tower(source) for source in short.text_encoders]
    encoders = describe(load_autoencoder(short.autoencoder), towers, short.max_tokens)
    contract = encoders.contract(short, "texture")
    given = folder, short, "texture", contract, encoders
    pin_initial(*given)  # type: ignore[arg-type]
    network = starting_network(*given)  # type: ignore[arg-type]
    rows = rows_of(encoders, side)
    trained = train_loop("texture", short, rows, "e", folder / "checkpoints", contract=contract, denoiser=network)
    learnt = [name for name, weight in trained.denoiser.named_parameters() if weight.requires_grad]
    assert trained.steps == 1 and trained.loss > 0 and learnt
    assert all("lora_" in name for name in learnt) or short.lora is None


def refiner(base: Any) -> StableDiffusionXLImg2ImgPipeline:
    """SDXL's own kind: one text encoder, and a score of aesthetics."""
    network = unet(
        7, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=WIDTH + 40,
        cross_attention_dim=WIDTH,
    )  # fmt: skip
    parts = sdxl_parts(2) | {"unet": network, "text_encoder": None, "tokenizer": None, "vae": base.vae}
    parts |= {"text_encoder_2": seeded(9, CLIPTextModelWithProjection, config=text_config())}
    return quiet(StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True))


@torch.no_grad()
def test_sdxls_base_and_refiner_are_a_pair_with_two_sets_of_text_encoders(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PANGU_HOME", str(tmp_path / "home"))
    base = sdxl(2)
    fine = refiner(base)
    base.save_pretrained(tmp_path / "base")
    fine.save_pretrained(tmp_path / "refiner")
    made = import_pair(str(tmp_path / "base"), "xl", Home.from_environment(), refiner=str(tmp_path / "refiner"))
    pair = load_pair(made.pair)
    pair.set_progress_bar_config(disable=True)
    assert pair.components["text_encoder_of_texture"] is not None and made.texture_recipe
    for pipe in (base, fine):
        pipe.scheduler = type(pipe.scheduler).from_config(pair.scheduler.config)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"negative_prompt": "", "num_inference_steps": 10, "guidance_scale": 3.0}
    told = {"original_size": (64, 64), "target_size": (64, 64)}
    size = {"height": 16, "width": 16}
    latents = base("a fox", latents=noise, denoising_end=0.8, output_type="latent", **call, **told, **size).images
    theirs = fine("a fox", image=latents, denoising_start=0.8, output_type="pt", **call, **told).images
    ours = pair("a fox", latents=noise, output_type="pt", **call, **size).images
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-3)
    # The texture half trains by its own recipe, with its own text encoders; structure by the other one.
    for role, file in (("structure", made.recipe), ("texture", made.texture_recipe)):
        own = recipe(file)
        towers = [load_text_tower(source) for source in own.text_encoders]
        encoders = describe(load_autoencoder(own.autoencoder), towers, own.max_tokens)
        channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
        network = initial_denoiser(own, role, *channels, encoders.contract(own, role))
        assert encoders.text_encoder_hashes == pair.contract(role).text_encoder_hashes
        assert torch.equal(network.conv_in.weight, pair.generator(role).conv_in.weight)
        assert GeneratorContract.load(Path(made.pair) / role) == pair.contract(role)


def test_what_can_not_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    flux(3).save_pretrained(tmp_path / "flux")
    unread = stable_diffusion_3(1)
    unread.register_modules(text_encoder_2=None, tokenizer_2=None)
    unread.save_pretrained(tmp_path / "sd3")
    flux(3, guidance_embeds=False).save_pretrained(tmp_path / "plain")
    for name, sentence, options in (
        (
            "plain",
            "was not distilled to be told a guidance scale",
            {"boundary": 500, "resolution": 16, "guidance": 3.0},
        ),
        ("sd3", "was saved without its text_encoder_2", {"boundary": 500}),
        ("plain", "does not say how large its pictures are; say it by --resolution", {"boundary": 500}),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            import_pair(str(tmp_path / name), "pair", home, **options)
        assert "\n" not in str(caught.value) and not home.pair("pair").exists()
    channels = 4, WIDTH, WIDTH
    start = recipe("tiny").model_copy(update={"init_from": InitialWeights(source=str(tmp_path / "flux"))})
    flux_start = start.model_copy(
        update={"denoiser": FluxShape(), "schedule": NoiseSchedule(prediction_type="flow_prediction")}
    )
    encoders = describe(
        load_autoencoder(start.autoencoder), [load_text_tower(one) for one in start.text_encoders], start.max_tokens
    )
    with pytest.raises(UserError, match="and nobody says which; open it by `pangu import`"):
        initial_denoiser(flux_start, "structure", *channels, encoders.contract(flux_start, "structure"))
    bare = wan_without_weights(tmp_path / "bare")
    with pytest.raises(UserError):
        import_pair(str(bare), "pair", home, resolution=16)
