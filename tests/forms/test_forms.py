"""Forms, changed recipes, options, and lines of a log, without a server."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.distill_pair import students
from flows.gate import markdown
from flows.mixing import mixed
from flows.overrides import changed
from flows.parameters import (
    Devices,
    DistillPair,
    EvaluatePair,
    EvaluationOptions,
    PartnerRecipeName,
    RetrainPair,
    TrainPartner,
)
from flows.recipe_changes import PartnerChanges, RecipeChanges
from flows.reporting import plain
from pangu.actors import Spread
from pangu.cli.common import spread_of
from pangu.config import AutoencoderSource, InitialWeights, Mixture, MixturePart, Recipe
from pangu.data.card import Split
from pangu.errors import UserError
from pangu.evaluate.protocol import check_metrics
from pangu.gate.decision import Decision
from pangu.recipes import RECIPES, recipe
from tests import subtests

checks = subtests.Checks()


@subtests.parametrize("name", [name for name, make in RECIPES.items() if make().strategy == "time_decoupling"])
def test_a_form_that_nobody_touched_leaves_the_recipe_as_it_is(name: str) -> None:
    assert changed(recipe(name), RecipeChanges()) == recipe(name)
    assert changed(recipe("single"), PartnerChanges()) == recipe("single")


PART = MixturePart(dataset="first", encode_id="0" * 16)
COMMON = {
    "batch_size": 4, "lr_peak": 0.5, "lr_final": 0.25, "warmup_steps": 3, "ema_decay": 0.75, "zh_share": 0.125,
    "template_share": 0.375, "keyword_share": 0.625, "seed": 11, "workers": 3, "num_inference_steps": 13,
    "guidance_scale": 1.5, "sample_every": 17, "dataset_weight": 2.5,
}  # fmt: skip


def check_common(found: Recipe) -> None:
    """Every field that all recipes have stands where `COMMON` says."""
    learning = found.optimization
    assert {job.batch_size for job in found.jobs.values()} == {4}
    assert (learning.lr_peak, learning.lr_final, learning.warmup_steps, learning.zh_share) == (0.5, 0.25, 3, 0.125)
    assert (learning.template_share, learning.keyword_share) == (0.375, 0.625)
    assert learning.ema_decays == (0.75,)
    assert (found.seed, found.workers, found.watching.sample_every) == (11, 3, 17)
    assert (found.sampling.num_inference_steps, found.sampling.guidance_scale) == (13, 1.5)
    assert found.mixture.weight == 2.5


@checks
def a_form_that_starts_from_nothing_asks_for_random_weights() -> None:
    assert recipe("demo").init_from is not None
    assert changed(recipe("demo"), RecipeChanges(start_from="nothing")).init_from is None


@checks
def further_datasets_of_a_form_stand_in_the_recipe_behind_its_own() -> None:
    one, other = {"dataset": "photos", "weight": 0.5}, {"dataset": "more_photos", "version": 3, "weight": None}
    for named in ([one, other], [one]):
        form = RetrainPair.model_validate({"more": [{"further": named}]})
        assert [(part.dataset, part.version, part.weight) for part in form.further] == [
            ("photos", None, 0.5), ("more_photos", 3, 1.0),
        ][: len(named)]  # fmt: skip
    assert RetrainPair().further == () and RetrainPair.model_validate({"more": [{"further": []}]}).further == ()
    before = recipe("demo").model_copy(update={"mixture": Mixture(weight=2, also=(PART,))})
    found = mixed(before, form.further, {"photos": "1" * 16}).mixture
    assert found == Mixture(weight=2, also=(PART, MixturePart(dataset="photos", encode_id="1" * 16, weight=0.5)))


@checks
def every_field_of_the_form_arrives_in_the_recipe() -> None:
    asked = RecipeChanges(structure_steps=7, texture_steps=9, boundary=300, start_from="models:/a@b", **COMMON)
    assert None not in asked.model_dump().values()
    found = changed(recipe("demo"), asked)
    assert (found.structure.steps, found.texture.steps) == (7, 9)
    assert (found.boundary, found.init_from) == (300, InitialWeights(source="models:/a@b"))
    check_common(found)


def test_every_field_of_a_partners_form_arrives_in_its_recipe() -> None:
    space = {"autoencoder": "a/b", "autoencoder_subfolder": "vae"}
    start = {"start_from": "c/d", "start_subfolder": "unet", "new_latents": True}
    asked = PartnerChanges(steps=7, resolution=32, **space, **start, **COMMON)
    assert None not in asked.model_dump().values()
    for name in get_args(PartnerRecipeName):
        found = changed(recipe(name), asked)
        (job,) = found.jobs.values()
        assert (job.steps, job.resolution) == (7, 32)
        assert found.autoencoder == AutoencoderSource(source="a/b", subfolder="vae")
        assert found.init_from == InitialWeights(source="c/d", subfolder="unet", new_latents=True)
        check_common(found)


@checks
def the_form_of_partners_offers_every_recipe_of_one() -> None:
    partners = {name for name, make in RECIPES.items() if make().strategy in ("single", "control")}
    assert set(get_args(PartnerRecipeName)) == partners


@checks
def another_source_forgets_what_belonged_to_the_old_one() -> None:
    one = changed(recipe("single"), PartnerChanges(start_from="a", start_subfolder="unet", new_latents=True))
    assert changed(one, PartnerChanges(start_from="b")).init_from == InitialWeights(source="b")


@subtests.parametrize(
    ("name", "changes", "sentence"),
    [
        ("edge_control", {}, "trains a ControlNet on a given generator; name its folder in start_from"),
        ("single", {"start_subfolder": "unet"}, "fill in start_subfolder without start_from"),
        ("single", {"new_latents": True, "start_from": "nothing"}, "fill in new_latents without start_from"),
        ("single", {"autoencoder_subfolder": "vae"}, "fill in autoencoder_subfolder without autoencoder"),
    ],
)
def test_a_partners_form_that_lacks_half_of_something_is_one_sentence(name: str, changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        changed(recipe(name), PartnerChanges(**changes))


@checks
def changes_that_do_not_go_together_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^The changes to recipe 'demo' do not hold: .*boundary must lie strictly"):
        changed(recipe("demo"), RecipeChanges(boundary=1000))


@checks
def the_bounds_of_the_form_are_no_wider_than_those_of_the_recipe() -> None:
    """A number that the form lets through is refused by the recipe only in company of another."""
    for field, value in (
        ("seed", 0),
        ("workers", 1),
        ("num_inference_steps", 1000),
        ("guidance_scale", 50),
        ("lr_final", 0),
    ):
        assert isinstance(changed(recipe("demo"), RecipeChanges(**{field: value})), Recipe)


@checks
def the_choices_of_an_evaluation_are_those_of_the_command() -> None:
    fields = EvaluationOptions.model_fields
    assert set(get_args(fields["split"].annotation)) == {"automatic", *get_args(Split)}
    for choice in get_args(fields["metrics"].annotation):
        if choice != "automatic":
            assert ",".join(check_metrics(choice.split(","))) == choice


@checks
def options_left_alone_ask_for_nothing_special() -> None:
    assert EvaluationOptions().arguments == ["--prompts", "24"]
    asked = EvaluationOptions(prompts=100, split="train", metrics="retrieval,fid,kid", clip="a/b").arguments
    assert asked == ["--prompts", "100", "--split", "train", "--metrics", "retrieval,fid,kid", "--clip", "a/b"]
    worded = EvaluationOptions(templates="untrained", keywords=True).arguments
    assert worded == ["--prompts", "24", "--templates", "untrained", "--keywords"]
    assert EvaluationOptions(clip="a", cn_clip="b", inception="c").judges == [
        "--inception", "c", "--clip", "a", "--cn-clip", "b",
    ]  # fmt: skip


@subtests.parametrize("form", [RetrainPair, EvaluatePair, TrainPartner])
def test_places_in_a_form_are_all_different(form: type) -> None:
    for schema in [form.model_json_schema(), *form.model_json_schema()["$defs"].values()]:
        places = [field["position"] for field in schema["properties"].values()]
        assert sorted(places) == list(range(len(places)))


@checks
@given(st.text(st.characters(blacklist_characters="\x1b\r")))
def text_without_control_sequences_stays(text: str) -> None:
    assert plain(text) == text


@subtests.parametrize(
    ("line", "shown"),
    [
        ("\x1b[36m(RayTrainWorker pid=5)\x1b[0m step 3", "(RayTrainWorker pid=5) step 3"),
        ("  10%|x\r  20%|xx\r 100%|xxxx", " 100%|xxxx"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b[2K\x1b[1Adone\r", "done"),
    ],
)
def test_a_log_line_is_shown_without_terminal_control(line: str, shown: str) -> None:
    assert plain(line) == shown


def test_a_decision_is_shown_with_every_number_and_its_interval() -> None:
    decision = Decision.model_validate(
        {
            "passed": False, "reason": "Worse.", "pair_id": "p", "champion_version": 4,
            "verdicts": [
                {
                    "metric": "retrieval_top1_zh", "passed": False, "sentence": "Worse.", "candidate": 0.5, "champion": 0.75,
                    "difference": {"mean": -0.25, "low": -0.4, "high": -0.1, "prompts": 24},
                },
                {"metric": "loss_structure", "passed": True, "sentence": "Fine.", "candidate": 0.125},
            ],
        }
    )  # fmt: skip
    text = markdown(decision.model_dump(mode="json"))
    assert "## Gate: closed" in text and "champion, version 4" in text
    assert "| retrieval_top1_zh | 0.5 | 0.75 | -0.25 [-0.4, -0.1] | **no** |" in text
    assert "| loss_structure | 0.125 | - | - | yes |" in text
    assert "open" in markdown(Decision(passed=True, reason="", verdicts=(), pair_id="p").model_dump(mode="json"))


@checks
@given(st.one_of(st.none(), st.integers(1, 9)), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def what_the_form_says_of_devices_arrives_in_the_stage(workers: int | None, gpus: float) -> None:
    words = Devices(workers=workers, gpus=gpus).arguments
    options = dict(zip(words[1::2], words[2::2], strict=True))
    number = options.get("--workers")
    found = spread_of(words[0] == "--on-ray", int(number) if number else None, float(options["--gpus"]))
    assert found == Spread(on_ray=True, workers=workers, gpus=gpus)


@checks
def workers_without_a_cluster_and_shares_that_no_gpu_has_are_refused() -> None:
    with pytest.raises(UserError, match="--workers are those of a cluster; add --on-ray"):
        spread_of(False, 2, 1.0)
    for gpus in (0.0, 1.5, -1.0):
        with pytest.raises(UserError, match=r"--gpus must be a share of one GPU, such as 0\.5, or a whole number"):
            spread_of(True, None, gpus)


def test_the_form_of_students_names_their_teacher_and_keeps_what_it_changes() -> None:
    asked = DistillPair(
        teacher="models:/pangu-pair@champion", student_steps=3, changes=RecipeChanges(structure_steps=77)
    )
    found = students(asked)
    assert found.init_from == InitialWeights(source="models:/pangu-pair@champion")
    assert found.structure.steps == 77
    assert [job.distillation.steps for job in found.jobs.values() if job.distillation] == [3, 3]
    assert found.structure.distillation.guidance_scale == recipe("demo").sampling.guidance_scale
    with pytest.raises(UserError, match="name the pair in teacher"):
        students(DistillPair(changes=RecipeChanges(start_from="embedded")))


test_forms = checks.test()
