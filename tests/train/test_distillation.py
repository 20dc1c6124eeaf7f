"""Distillation: the target of a student, its fixed point, and that training approaches it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pangu.config import ROLES, Distillation, InitialWeights, NoiseSchedule, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.captions import EMPTY, Caption
from pangu.data.encode.encoded import Encoders
from pangu.data.encode.encoders import describe
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.interval import TimeInterval, interval_of
from pangu.diffusion.noise import NoiseLevel, add_noise, carried, clean_between, prediction_from_clean
from pangu.diffusion.segments import segment_ends, segment_starts
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import denoise
from pangu.models.text import load_text_tower
from pangu.pipelines.assemble import assemble_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import single, student_of, tiny
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.randomness import Batch
from pangu.train.segment_target import SegmentTarget, Teacher
from pangu.train.setup import initial
from pangu.train.starting_weights import export_generator, pin_initial, starting_network, teacher_of
from tests import subtests
from tests.pipelines.drawing import draw
from tests.pipelines.exact import COSINE, EPSILON, FLOW, MEAN, SPREAD, VELOCITY, Gaussian, Ideal, segments
from tests.train.rows import random_rows, smallest_recipe
from tests.train.test_transformer_pair import rows_of

CPU = torch.device("cpu")
INTERVALS = {"structure": TimeInterval(500, 1000), "texture": TimeInterval(0, 500)}


def batch_at(timesteps: list[float], whole: bool) -> Batch:
    count = len(timesteps)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(count, 4, 2, 2, generator=generator) for _ in range(2))
    tokens, pooled = torch.randn(count, 3, 8, generator=generator), torch.randn(count, 8, generator=generator)
    t = torch.tensor(timesteps, dtype=torch.int64 if whole else torch.float32)
    return Batch(MEAN + SPREAD * clean, noise, tokens, pooled, t, preset=0)


def distance(schedule: NoiseSchedule, interval: TimeInterval, settings: Distillation, timesteps: list[float]):
    """(B,) how far the ideal student is from its own target, root mean square, and both networks."""
    levels = training_levels(schedule)
    interval = replace(interval, closed=schedule.is_flow and interval.high == 1000)
    teacher = Gaussian(schedule.model_dump(), 4, 8)
    student = Ideal(schedule.model_dump(), 4, 8, segments(interval, settings.steps))
    batch = batch_at(timesteps, not schedule.is_flow)
    noisy = add_noise(batch.latents_bchw, batch.noise_bchw, level := levels.level(batch.timestep_b))
    target = SegmentTarget(Teacher(teacher, torch.zeros(3, 8), torch.zeros(8)), interval, levels, settings, CPU)
    wanted = target(student, batch, noisy, level)
    asked_of_target = list(student.asked)
    own = student(noisy, batch.timestep_b)[0]
    return (wanted - own).square().mean((1, 2, 3)).sqrt(), teacher, asked_of_target


@subtests.parametrize("role", ["structure", "texture"])
@subtests.parametrize("schedule", [EPSILON, VELOCITY, COSINE, FLOW], ids=["epsilon", "v", "cosine", "flow"])
def test_a_student_that_leaves_segments_where_the_flow_does_has_learnt_all(schedule: NoiseSchedule, role: str) -> None:
    """It is its own target but for the teacher's step, whose error falls with its length; another student is not."""
    interval = INTERVALS[role]
    inside = [interval.low + 0.999 * share * (interval.high - 1 - interval.low) for share in (0.2, 0.4, 0.7, 0.95)]
    timesteps = [float(round(t)) for t in inside]
    coarse, fine = (distance(schedule, interval, Distillation(steps=2, stride=n), timesteps)[0] for n in (20, 5))
    assert float(fine.max()) < 0.05
    assert bool((fine < 0.5 * coarse + 1e-4).all())
    plain, _, _ = distance(schedule, interval, Distillation(steps=7, stride=5), timesteps)
    assert float(plain.max()) < 0.05


def test_nobody_is_asked_beyond_the_interval_and_the_end_is_the_teachers() -> None:
    for role, interval in INTERVALS.items():
        settings = Distillation(steps=2, stride=30)
        first, second = segment_ends(interval, 2)
        near = [float(first + 3), float(max(second, 0) + 2), float(interval.high - 1)]
        _, teacher, asked = distance(EPSILON, interval, settings, near)
        assert all(interval.low <= t < interval.high for t in [*teacher.asked, *asked]), role


def test_within_a_step_of_the_end_the_target_is_the_teachers_guided_prediction() -> None:
    class Shown(Gaussian):
        def forward(self, noisy, timestep, encoder_hidden_states=None, **_):
            return (noisy + encoder_hidden_states.mean((1, 2))[:, None, None, None],)

    teacher = Shown(EPSILON.model_dump(), 4, 8)
    batch, levels = batch_at([502.0, 751.0], True), training_levels(EPSILON)
    noisy = add_noise(batch.latents_bchw, batch.noise_bchw, level := levels.level(batch.timestep_b))
    empty = torch.full((3, 8), 0.25)
    target = SegmentTarget(
        Teacher(teacher, empty, torch.zeros(8)), INTERVALS["structure"], levels, Distillation(guidance_scale=4.0), CPU
    )
    by_hand = noisy + (0.25 + 4.0 * (batch.tokens_bsc.mean((1, 2)) - 0.25))[:, None, None, None]
    torch.testing.assert_close(target(teacher, batch, noisy, level), by_hand)


@given(low=st.integers(0, 700), length=st.integers(1, 300), steps=st.integers(1, 50))
def test_segments_cover_an_interval_once_and_meet(low: int, length: int, steps: int) -> None:
    interval = TimeInterval(low, low + length)
    if steps > length:
        with pytest.raises(ValueError, match="too few"):
            segment_starts(interval, steps)
        return
    starts, ends = segment_starts(interval, steps), segment_ends(interval, steps)
    assert starts[0] == interval.high - 1
    assert ends == (*starts[1:], low - 1)
    assert all(start > end for start, end in zip(starts, ends, strict=True))
    sizes = [start - end for start, end in zip(starts, ends, strict=True)]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == length


@given(st.floats(0.05, 1), st.floats(0.0, 0.95), st.sampled_from(["epsilon", "v_prediction", "flow_prediction"]))
def test_a_prediction_is_found_again_between_where_it_began_and_where_it_led(sigma: float, share: float, kind) -> None:
    schedule = NoiseSchedule(prediction_type=kind)
    levels = training_levels(schedule)
    level = NoiseLevel(1 - sigma, sigma) if schedule.is_flow else NoiseLevel((1 - sigma**2) ** 0.5, sigma)
    other_sigma = sigma * share
    other = (
        NoiseLevel(1 - other_sigma, other_sigma)
        if schedule.is_flow
        else NoiseLevel((1 - other_sigma**2) ** 0.5, other_sigma)
    )
    if level.signal < 0.05:
        return
    noisy, said = (torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    led = carried(noisy, said, level, other, levels.prediction)
    clean = clean_between(noisy, led, level, other)
    torch.testing.assert_close(prediction_from_clean(noisy, clean, level, levels.prediction), said)


def distilled_recipe(**settings: object) -> Recipe:
    recipe = smallest_recipe(steps=80, batch_size=8, checkpoint_every=40, lr_peak=3e-3, caption_dropout=0.0)
    jobs = {
        role: job.model_copy(update={"distillation": Distillation(**settings)}) for role, job in recipe.jobs.items()
    }
    return recipe.model_copy(update={"jobs": jobs, "init_from": InitialWeights(source="teacher")})


@pytest.mark.long
def test_training_brings_a_stranger_to_where_the_teacher_ends(tmp_path) -> None:
    recipe, rows = distilled_recipe(steps=1, stride=250, guidance_scale=2.0), random_rows()
    seeds = (recipe.model_copy(update={"init_from": None, "seed": seed}) for seed in (0, 1))
    teacher, student = (initial(plain, rows, "structure") for plain in seeds)
    with torch.no_grad():
        teacher.conv_out.weight.mul_(4)
    frozen = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    before = landing_error(student.eval(), teacher.eval(), recipe, rows)
    trained: Trained = train_loop("structure", recipe, rows, "e", tmp_path, denoiser=student, teacher=teacher)
    assert landing_error(trained.denoiser.eval(), teacher, recipe, rows) < 0.75 * before
    assert all(torch.equal(frozen[name], weight) for name, weight in teacher.state_dict().items())


def landing_error(student, teacher, recipe: Recipe, rows) -> float:
    """Root mean square between where a student's one step and a teacher's two guided ones lead from pure noise."""
    levels, interval = training_levels(recipe.schedule), interval_of("structure", recipe.boundary, 1000)
    tokens, pooled = (part.float() for part in rows.captions(list(range(12)), [Caption(0)] * 12))
    empty = [part.float() for part in rows.captions(list(range(12)), [Caption(EMPTY)] * 12)]
    noise = torch.randn(12, 4, 4, 4, generator=torch.Generator().manual_seed(5))

    def at(t: int):
        return levels.level(torch.full((12,), t))

    @torch.no_grad()
    def asked(network, noisy, t, text):
        return denoise(network, noisy, torch.full((12,), t), *text, 0)

    start, end = interval.high - 1, interval.low - 1
    one = carried(noise, asked(student, noise, start, (tokens, pooled)), at(start), at(end), levels.prediction)
    many, grid = noise, torch.linspace(start, end, 3).round().int().tolist()
    for t, following in pairwise(grid):
        without, told = (asked(teacher, many, t, text) for text in (empty, (tokens, pooled)))
        many = carried(many, without + 2.0 * (told - without), at(t), at(following), levels.prediction)
    return float((one - many).square().mean().sqrt())


def test_students_are_trained_resumed_exported_joined_and_drawn(tmp_path) -> None:
    """From the weights that a job pins to a pair that walks two and two steps; a stopped job ends in the same bits."""
    teacher = tiny().model_copy(update={"init_from": None})
    encoders = described(teacher)
    for role in ROLES:
        own = encoders.contract(teacher, role)
        network = initial(teacher, rows_of(encoders, 12), role)
        own.save(saved(network, tmp_path / "teacher" / role))
    folders: dict[str, Path] = {}
    for role, side in (("structure", 12), ("texture", 8)):
        recipe = student_of(teacher, str(tmp_path / "teacher" / role), 2)
        contract, rows, ends = encoders.contract(recipe, role), rows_of(encoders, side), []
        for run, steps in ((tmp_path / role, (4,)), (tmp_path / f"{role}-stopped", (2, 4))):
            pin_initial(run, recipe, role, contract, encoders)
            for until in steps:
                ends.append(one_half(run, recipe, role, rows, contract, encoders, until))
        assert all(torch.equal(ends[0][name], weight) for name, weight in ends[-1].items())
        folders[role] = tmp_path / role / "generator"
        said = GeneratorContract.load(folders[role]).distilled
        assert said is not None and said.guidance_scale == teacher.sampling.guidance_scale
    assemble_pair(folders["structure"], folders["texture"], recipe, tmp_path / "pair")
    pair = PanGuDrawPipeline.from_pretrained(tmp_path / "pair")
    seen: list[float] = []
    draw(pair, ["fox"], num_inference_steps=30, callback_on_step_end=lambda _, __, t, ___: seen.append(float(t)) or {})
    assert seen == [999.0, 749.0, 499.0, 249.0]


def one_half(run: Path, recipe: Recipe, role: Role, rows: EncodedRows, contract, encoders, until: int) -> dict:
    """Train to step `until` and export; the weights."""
    job = recipe.training(role).model_copy(update={"steps": 4})
    slow = recipe.optimization.model_copy(update={"lr_schedule": "constant", "checkpoint_every": until})
    recipe = recipe.model_copy(update={"jobs": {**recipe.jobs, role: job}, "optimization": slow})

    class Stopped(Exception):
        pass

    def stop(_: Path) -> None:
        if until < 4:
            raise Stopped

    try:
        trained = train_loop(
            role, recipe, rows, "e", run / "checkpoints", None, Hooks(checkpoint=stop), contract=contract,
            denoiser=starting_network(run, recipe, role, contract, encoders),
            teacher=teacher_of(run, job),
        )  # fmt: skip
    except Stopped:
        return {}
    export_generator(run / "generator", trained.denoiser, trained.ema, 0, contract)
    return {name: weight.clone() for name, weight in trained.denoiser.state_dict().items()}


@subtests.parametrize(
    ("changes", "sentence"),
    [
        ({"init_from": None}, "distillation needs a teacher: name it in init_from"),
        ({"watching": {"held_out_every": 5}}, "a distilled half no longer makes"),
        ({"strategy": "single", "jobs": {"single": {}}}, "it belongs to time_decoupling"),
    ],
)
def test_a_recipe_that_can_not_teach_is_refused_when_it_is_read(changes: dict, sentence: str) -> None:
    tree = student_of(tiny(), "embedded").model_dump(mode="json")
    jobs = {role: tree["jobs"]["structure"] | job for role, job in changes.get("jobs", tree["jobs"]).items()}
    with pytest.raises(ValidationError, match=sentence):
        Recipe.model_validate(tree | changes | {"jobs": jobs})


def test_a_recipe_without_halves_has_no_students() -> None:
    with pytest.raises(UserError, match="'single' trains no pair, so there are no halves to distill"):
        student_of(single(), "embedded")


def test_what_is_not_distilled_is_written_as_before() -> None:
    """Digests of recipes, names of runs and contracts of others stay what they were."""
    plain = tiny().model_dump(mode="json")
    assert all("distillation" not in job for job in plain["jobs"].values())
    contract = described(tiny()).contract(tiny(), "structure")
    assert "distilled" not in contract.model_dump(mode="json")
    student = student_of(tiny(), "embedded")
    assert student.learning_digest() != tiny().learning_digest()
    assert student_of(tiny(), "embedded", 3).learning_digest() != student.learning_digest()


def described(recipe: Recipe) -> Encoders:
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    return describe(load_autoencoder(recipe.autoencoder), towers, recipe.max_tokens)


def saved(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder
