"""Recipes are complete, frozen, refuse nonsense, and build the networks that they promise."""

import pytest
import torch
from pydantic import ValidationError

from pangu.config import Execution, Recipe
from pangu.diffusion.training_levels import level_at
from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser
from pangu.pipelines.assemble import untrained_pair
from pangu.planning.operations import Shapes, drawing_operations, forward_operations, training_operations
from pangu.planning.operations import parameters as planned_parameters
from pangu.recipes import RECIPES, demo, recipe, tiny
from tests import subtests

checks = subtests.Checks()

SDXL_UNET_PARAMETERS = 2_567_463_684
PUBLISHED_TEXT = {"context": 768 + 1280, "pooled": 1280}


def parameters(name: str) -> int:
    with torch.device("meta"):
        network = build_denoiser(RECIPES[name]().denoiser, latent_channels=4, **PUBLISHED_TEXT)
    return sum(parameter.numel() for parameter in network.parameters())


def test_large_recipes_have_the_published_sizes(capsys) -> None:
    counts = {name: parameters(name) for name in ("sdxl_half", "pangu_draw_5b")}
    with capsys.disabled():
        for name, count in counts.items():
            print(f"\n{name}: {count / 1e9:.3f} B parameters a generator, {2 * count / 1e9:.3f} B a pair", end="")
    assert counts["pangu_draw_5b"] == pytest.approx(SDXL_UNET_PARAMETERS, rel=0.01)
    assert 2 * counts["pangu_draw_5b"] == pytest.approx(5e9, rel=0.05)


@pytest.mark.long
@subtests.parametrize("side", [512, 1024])
def test_half_of_a_large_model_is_half_of_its_work_and_not_of_its_parameters_alone(side: int) -> None:
    half, whole = (Shapes(RECIPES[name]()) for name in ("sdxl_half", "pangu_draw_5b"))
    for count in (planned_parameters, lambda shapes, role: forward_operations(shapes, role, side)):
        assert 0.45 < count(half, "structure") / count(whole, "structure") <= 0.50


def test_halves_may_be_of_two_shapes() -> None:
    made = tiny()
    small = made.denoiser.model_copy(update={"block_out_channels": (16, 24)})
    jobs = made.jobs | {"structure": made.structure.model_copy(update={"denoiser": small})}
    uneven = made.model_copy(update={"jobs": jobs})
    assert Recipe.model_validate_json(uneven.model_dump_json()) == uneven
    assert uneven.digest() != made.digest()
    assert "denoiser" not in made.model_dump(mode="json")["jobs"]["structure"], (
        "digests of other recipes stay as they were"
    )
    shapes = Shapes(uneven)
    assert planned_parameters(shapes, "structure") < planned_parameters(shapes, "texture")
    one, other = (forward_operations(shapes, role, 96) for role in ("structure", "texture"))
    assert one < drawing_operations(shapes) / (uneven.sampling.num_inference_steps * 2) < other
    pair = untrained_pair(uneven)
    assert tuple(pair.structure.config.block_out_channels) == (16, 24)
    assert pair("fox", num_inference_steps=2, output_type="latent").images.isfinite().all()


def test_the_pair_of_transformers_costs_what_the_pair_of_unets_costs() -> None:
    """By the planner's own count, over all steps of both halves; their boundaries have one log-SNR."""
    costs, levels = [], []
    for name in ("demo", "demo_flow"):
        made = recipe(name)
        shapes, jobs = Shapes(made), made.jobs.items()
        costs.append(sum(training_operations(shapes, role) * job.batch_size * job.steps for role, job in jobs))
        level = level_at(made.schedule, made.boundary)
        levels.append(level.signal / level.sigma)
    assert costs[1] == pytest.approx(costs[0], rel=1e-3)
    assert levels[1] == pytest.approx(levels[0], rel=1e-3)


@subtests.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.model_validate_json(made.model_dump_json()) == made


@checks
def a_job_may_compute_otherwise_and_learns_the_same() -> None:
    plain, own = demo(), Execution(accumulate=4)
    texture = plain.texture.model_copy(update={"execution": own})
    recipe = Recipe.model_validate(plain.model_dump() | {"jobs": {"structure": plain.structure, "texture": texture}})
    assert (recipe.execution_of("structure"), recipe.execution_of("texture")) == (plain.execution, own)
    assert recipe.learning_digest() == plain.learning_digest()
    fly = texture.model_copy(update={"execution": Execution(latents="on_the_fly")})
    with pytest.raises(ValidationError, match="belongs to the encoded dataset"):
        Recipe.model_validate(plain.model_dump() | {"jobs": {"structure": plain.structure, "texture": fly}})


@checks
def digests_tell_recipes_apart_and_repeat() -> None:
    assert len({make().digest() for make in RECIPES.values()}) == len(RECIPES)
    assert demo().digest() == demo().digest()
    assert demo().model_copy(update={"seed": 1}).digest() != demo().digest()


@checks
def an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown recipe 'sdxl'; known recipes are .*demo"):
        recipe("sdxl")


def texture(**change: object) -> dict:
    """The demo recipe's jobs with another texture job."""
    jobs = demo().model_dump()["jobs"]
    return {"jobs": jobs | {"texture": jobs["texture"] | change}}


@subtests.parametrize(
    ("change", "sentence"),
    [
        ({"boundary": 0}, "strictly between 0 and T=1000"),
        ({"boundary": 1000}, "strictly between"),
        (texture(resolution=512, crop_from=None), "higher resolution than structure"),
        (texture(crop_from=32), "crop_from must not be smaller"),
        (texture(rows="all"), "texture must train on originals only"),
        ({"strategy": "cascaded"}, "jobs of cascaded must be exactly cascade_base, cascade_middle, cascade_final"),
        ({"lora": {"rank": 4}, "init_from": None}, "name them in init_from"),
        ({"text_encoders": []}, "at least one entry"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_nonsense_is_refused(change, sentence) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Recipe.model_validate(demo().model_dump() | change)


@checks
def a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        demo().seed = 3


@subtests.parametrize("suffix", [".json", ".yaml"])
def test_a_recipe_is_read_from_a_file(suffix: str, tmp_path) -> None:
    written = RECIPES["single"]().model_copy(update={"seed": 7})
    path = tmp_path / f"mine{suffix}"
    path.write_text(written.model_dump_json(indent=2))
    assert recipe(str(path)) == written


@subtests.parametrize(
    ("text", "sentence"),
    [
        ("name: [", "There is no recipe at"),
        ("name: x\nsed: 1", r"holds no recipe: jobs: Field required"),
        ("3", "holds no"),
    ],
)
def test_a_file_without_a_recipe_is_refused(text: str, sentence: str, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        recipe(str(tmp_path / "mine.yaml"))


test_recipes = checks.test()
