"""The samplers of resolution boost and of cascades, on untrained networks."""

import itertools
from typing import Any

import pytest
import torch
from PIL import Image

from pangu.config import STRATEGY_ROLES, Role, RoleTraining
from pangu.contract import GeneratorContract
from pangu.data.encode.views import job_data
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents
from pangu.models.cascade import lower_latents, upsample
from pangu.models.denoisers import build_denoiser, sees_lower
from pangu.pipelines.baselines import Cascade, SingleStage, assemble_cascade, assemble_single_stage
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from tests import subtests
from tests.pipelines.drawing import draw, seeds

checks = subtests.Checks()


RESOLUTIONS: dict[Role, int] = {"cascade_base": 32, "cascade_middle": 64, "cascade_final": 96}


def shared(pair: PanGuDrawPipeline) -> dict[str, Any]:
    """What a baseline takes over from the pair beside the networks."""
    names = ("vae", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    return {name: pair.components[name] for name in names} | {"hidden_layers": pair.config.hidden_layers}


def contract(pair: PanGuDrawPipeline, role: Role, **changes: Any) -> GeneratorContract:
    values = {"role": role, "low": 0, "high": 1000, "resolution": RESOLUTIONS.get(role, 96)} | changes
    return pair.contract("structure").model_copy(update=values)


def contracts(pair: PanGuDrawPipeline, *roles: Role, **changes: Any) -> dict[str, Any]:
    return {role: contract(pair, role, **changes).model_dump(mode="json") for role in roles}


def untrained(pair: PanGuDrawPipeline, role: Role) -> Any:
    config = pair.structure.config
    pooled = config.projection_class_embeddings_input_dim - config.addition_time_embed_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RESOLUTIONS[role])
        unet = build_denoiser(tiny().denoiser, config.in_channels, config.cross_attention_dim, pooled, sees_lower(role))
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def cascade(shared_pair) -> Cascade:
    networks = {role.removeprefix("cascade_"): untrained(shared_pair, role) for role in RESOLUTIONS}
    made = Cascade(**networks, **shared(shared_pair), contracts=contracts(shared_pair, *RESOLUTIONS))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def single(shared_pair) -> SingleStage:
    made = SingleStage(
        unet=shared_pair.structure, **shared(shared_pair), contracts=contracts(shared_pair, "boost_high")
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_a_single_stage_is_a_pair_of_twice_the_same_network(pair, single) -> None:
    pair.register_modules(texture=pair.structure)
    assert torch.equal(draw(single), draw(pair))
    assert torch.equal(draw(single, guidance_scale=1.0), draw(pair, guidance_scale=1.0))


def test_all_three_strategies_are_called_alike(pair, single, cascade) -> None:
    for pipeline in (pair, single, cascade):
        pipeline.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 2, "guidance_scale": 2.0, "generator": seeds(1, 2)}
        images = pipeline(["fox", "狐狸"], **options).images
        assert [type(image) for image in images] == [Image.Image] * 2
        assert [image.size for image in images] == [(96, 96)] * 2


@checks
def each_stage_of_a_cascade_walks_the_whole_range_on_the_upsampled_image(cascade) -> None:
    seen: dict[str, list[tuple[float, torch.Tensor]]] = {"base": [], "middle": [], "final": []}
    hooks = [
        getattr(cascade, name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append((float(args[1][0]), args[0]))
        )
        for name in seen
    ]
    ends: list[torch.Tensor] = []

    def keep(pipeline, step, timestep, tensors):
        if step == 3:
            ends.append(tensors["latents"])
        return {}

    draw(cascade, num_inference_steps=4, callback_on_step_end=keep)
    for hook in hooks:
        hook.remove()
    timesteps = {name: [t for t, _ in steps] for name, steps in seen.items()}
    assert timesteps == {name: [999.0, 749.0, 499.0, 249.0] for name in seen}
    assert [seen[name][0][1].shape[1:] for name in seen] == [(16, 4, 4), (32, 8, 8), (32, 12, 12)]
    for name, end, side in (("middle", ends[0], 64), ("final", ends[1], 96)):
        lower = lower_latents(cascade.vae, decode_latents(cascade.vae, end), side, side)
        for _, given in seen[name]:
            assert torch.equal(given[:, 16:], torch.cat([lower, lower])), "both halves of the guidance see it"


@checks
def the_base_image_and_the_seed_matter(cascade) -> None:
    images = draw(cascade)
    assert torch.equal(draw(cascade), images)
    assert not torch.equal(draw(cascade, generator=seeds(3, 4)), images)
    noise = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(draw(cascade, latents=noise), draw(cascade, latents=-noise))


@subtests.parametrize("presets", ["published", "square"])
def test_a_stage_is_given_pictures_of_the_size_that_it_was_trained_with(cascade, shared_pair, presets) -> None:
    sides = dict(zip(STRATEGY_ROLES["cascaded"], (256, 512, 1024), strict=True))
    changed = {
        role: contract(shared_pair, role, resolution=side, presets=presets).model_dump(mode="json")
        for role, side in sides.items()
    }
    parts = {"base": cascade.base, "middle": cascade.middle, "final": cascade.final} | shared(shared_pair)
    made = Cascade(**parts, contracts=changed)
    for lower, role in itertools.pairwise(sides):
        training = RoleTraining(resolution=sides[role], lower_side=sides[lower], presets=presets, steps=1, batch_size=1)
        view = job_data(training, made.reference.spatial_factor).view
        trained = dict(zip(view.sizes, view.lower_sizes, strict=True))
        drawn = [size for size in made.sizes if presets == "published" or size == (1024, 1024)]
        for size in drawn:
            assert trained[made.size_of(role, *size)] == made.size_of(lower, *size)


@checks
def upsampling_keeps_flat_colours_and_the_range() -> None:
    flat = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(upsample(flat, 24, 12), torch.full((1, 3, 24, 12), 0.25))
    edges = upsample(torch.randn(1, 3, 8, 8).sign(), 24, 24)
    assert edges.min() >= -1 and edges.max() <= 1


def test_saved_baselines_draw_the_same(single, cascade, tmp_path) -> None:
    for name, pipeline in (("single", single), ("cascade", cascade)):
        pipeline.save_pretrained(tmp_path / name)
        again = type(pipeline).from_pretrained(tmp_path / name)
        torch.testing.assert_close(draw(again), draw(pipeline), rtol=0, atol=1e-5)


def test_generator_folders_become_samplers(single, cascade, shared_pair, tmp_path) -> None:
    folders = []
    for role in (*STRATEGY_ROLES["cascaded"], "boost_high"):
        unet = single.unet if role == "boost_high" else cascade.generator(role)
        unet.save_pretrained(tmp_path / role)
        contract(shared_pair, role).save(tmp_path / role)
        folders.append(tmp_path / role)
    made = assemble_cascade(*folders[:3], tiny())
    torch.testing.assert_close(draw(made), draw(cascade), rtol=0, atol=1e-5)
    torch.testing.assert_close(draw(assemble_single_stage(folders[3], tiny())), draw(single), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="whose role is 'cascade_middle', but cascade_base is needed there"):
        assemble_cascade(folders[1], folders[0], folders[2], tiny())


@subtests.parametrize(
    ("roles", "changes", "sentence"),
    [
        (("structure",), {"low": 500}, r"owns t in \[500, 1000\), but it has to draw all of \[0, 1000\) alone"),
        (("cascade_final",), {}, "A single stage is one generator that starts from noise, not cascade_final"),
        (("boost_low", "boost_high"), {}, "A single stage is one generator"),
        ((), {}, "needs the contracts of its generators"),
    ],
)
def test_what_can_not_draw_alone_is_refused(shared_pair, roles, changes, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        SingleStage(
            unet=shared_pair.structure, **shared(shared_pair), contracts=contracts(shared_pair, *roles, **changes)
        )


@checks
def a_cascade_needs_three_stages_that_share_their_encoders(cascade, shared_pair) -> None:
    parts = {"base": cascade.base, "middle": cascade.middle, "final": cascade.final} | shared(shared_pair)
    with pytest.raises(UserError, match="A cascade needs contracts of cascade_base, cascade_middle, cascade_final"):
        Cascade(**parts, contracts=contracts(shared_pair, "cascade_base", "cascade_middle"))
    mixed = contracts(shared_pair, *RESOLUTIONS) | contracts(shared_pair, "cascade_final", autoencoder_hash="other")
    with pytest.raises(UserError, match="The stages do not share one autoencoder_hash"):
        Cascade(**parts, contracts=mixed)


test_baselines = checks.test()
