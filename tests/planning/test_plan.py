"""A plan is arithmetic that can be done by hand; spec files are refused by the field that is wrong; examples hold."""

from pathlib import Path

import pytest

from pangu.config import ROLES, Mixture, MixturePart
from pangu.data.card import load_card
from pangu.errors import UserError
from pangu.planning.cluster_spec import Cluster, Corpus, Device, load_spec
from pangu.planning.figures import Figures, StageCost, StepCost
from pangu.planning.mixed_work import mixture_work
from pangu.planning.plan import JobWork, Plan, Work, make_plan
from pangu.planning.table import duration, plan_table, size
from pangu.planning.workload import count_work, known_corpus, merged
from pangu.recipes import recipe
from pangu.storage import Home, write_json
from tests import subtests
from tests.small_dataset import NAME, small_dataset

ROOT = Path(__file__).parents[2]
JOB = JobWork(steps=1000, batch_size=100, operations_per_image=3.6e12, network_parameters=10)
WORK = Work(
    listed=3600, ok=1800, rows=1000, upscaled=400, image_bytes=1e6, row_bytes=5e5, latent_bytes=1e5, megapixels=2.0,
    upscaled_megapixels=1.0, encode_operations=3.6e12, jobs=dict.fromkeys(ROLES, JOB), drawn_images=10, draw_operations=3.6e14,
)  # fmt: skip
FIGURES = Figures(
    machine="x", cores=1, samples=(), step=StepCost(overhead_s=0.5, s_per_operation=1e-12), decode_s_per_megapixel=0.25,
    upscale_s_per_megapixel=2.0, ingest=StageCost(start_s=0, image_s=1.0), prepare=StageCost(start_s=100, image_s=0.5),
    encode=StageCost(start_s=0, image_s=1.0),
)  # fmt: skip
GPUS = Cluster(
    name="gpus", cores=10, core_price_per_hour=0.1, devices=4, download_mbit_per_s=4.0, storage_price_per_tb_month=10,
    device=Device(name="d", peak_tflops=1.0, utilisation=0.5, price_per_hour=2.0),
)  # fmt: skip


def stage(plan: Plan, name: str):
    return next(one for one in plan.stages if one.name == name)


def test_every_stage_of_a_small_plan_is_what_one_gets_by_hand() -> None:
    plan = make_plan(WORK, FIGURES, GPUS)
    assert stage(plan, "ingest").core_hours == pytest.approx(1.0)
    assert stage(plan, "ingest").wall_hours == pytest.approx(1.0)  # 1800 MB at 4 Mbit/s, ten cores need a tenth of it
    assert stage(plan, "prepare").core_hours == pytest.approx((100 + 900 + 900 + 800) / 3600)
    assert stage(plan, "encode").device_hours == pytest.approx(1000 * 3.6e12 / 0.5e12 / 3600)
    for role in ROLES:
        one = stage(plan, f"train-{role}")
        assert one.device_hours == pytest.approx(200.0)
        assert one.wall_hours == pytest.approx(100.0)
        assert one.cost == pytest.approx(400.0)
    assert stage(plan, "evaluate").device_hours == pytest.approx(2.0)
    assert plan.device_hours == pytest.approx(sum(one.device_hours for one in plan.stages))
    others = sum(one.wall_hours for one in plan.stages if not one.name.startswith("train-"))
    assert plan.wall_hours == pytest.approx(others + 100.0)
    assert plan.storage_cost_per_month == pytest.approx((1800e6 + 500e6 + 100e6 + 2 * 160) / 1e12 * 10)


def test_a_plan_of_a_mixture_counts_the_work_of_all_and_says_how_often_a_row_of_each_is_seen(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_dataset(home)
    (tmp_path / "cards/datasets").mkdir(parents=True)
    text = "name: {}\nsource: urls.csv\ncolumns: {{url: url, caption_en: caption}}\nlicence: {{name: none}}\n"
    text += "texture_min_side: 64\n"
    for name in (NAME, "told"):
        (tmp_path / "cards/datasets" / f"{name}.yaml").write_text(text.format(name))
    write_json(home.root / "flows/a/ingest.json", {"dataset": NAME, "listed": 20, "ok": 16})
    monkeypatch.chdir(tmp_path / "cards")
    plain, told = recipe("tiny"), load_card("told")
    known = Corpus(
        rows=100, ok_share=0.5, kept_share=0.8, small_share=0.5, megapixels=1.0, image_bytes=10.0, row_bytes=20.0
    )
    assert mixture_work(told, plain, known, home) == (count_work(told, plain, known, home), ())
    part = MixturePart(dataset=NAME, encode_id="0" * 16, weight=4)
    asked = plain.model_copy(update={"mixture": Mixture(weight=0.5, also=(part,))})
    work, (first, second) = mixture_work(told, asked, known, home)
    assert (work.listed, work.ok, work.rows, work.upscaled) == (120, 66, 52, 26)
    assert 1.0 > work.megapixels > 50 / 66
    assert (first.rows, second.rows) == (40, 12) and first.share == pytest.approx(20 / 68)
    job = asked.structure
    assert second.times["structure"] == pytest.approx(4 * job.steps * job.batch_size / 68)
    assert first.times["structure"] * 40 + second.times["structure"] * 12 == pytest.approx(job.steps * job.batch_size)
    assert f"| {NAME} | 12 | 4 | 71% |" in plan_table(make_plan(work, FIGURES, GPUS, mixture=(first, second)))
    gone = plain.model_copy(update={"mixture": Mixture(also=(part.model_copy(update={"dataset": "gone"}),))})
    with pytest.raises(UserError, match="Part 'gone' of the mixture cannot be counted"):
        mixture_work(told, gone, known, home)


def test_without_devices_everything_runs_on_the_cores() -> None:
    cores = GPUS.model_copy(update={"devices": 0, "device": None, "core_speed": 2.0})
    plan = make_plan(WORK, FIGURES, cores)
    assert plan.device_hours == 0
    assert stage(plan, "train-texture").core_hours == pytest.approx(1000 * (0.5 + 360) / 2 / 3600)


def test_the_table_names_every_stage_and_every_source() -> None:
    text = plan_table(make_plan(WORK, FIGURES, GPUS, {"rows": "somebody counted"}))
    for name in ("ingest", "prepare", "encode", "train-structure", "train-texture", "evaluate", "**all**"):
        assert f"| {name} |" in text
    assert "| rows | somebody counted |" in text
    assert (duration(72), duration(5), duration(0.5), duration(0.001)) == ("3.0 days", "5.0 h", "30.0 min", "4 s")
    assert (size(2.5e15), size(1e3), size(0)) == ("2.5 PB", "1 kB", "-")


@subtests.parametrize("path", sorted((ROOT / "infra/clusters").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_can_be_read_and_say_where_their_numbers_come_from(path: Path) -> None:
    spec = load_spec(path)
    numbers = spec.corpus.model_fields_set - {"sources"}
    assert numbers == set(spec.corpus.sources)


@subtests.parametrize(
    ("text", "sentence"),
    [
        ("cluster: {name: x}", "cluster.cores: Field required"),
        ("cluster: {name: x, cores: 2, devices: 3}", "cluster.device must say what the 3 devices are"),
        ("cluster: {name: x, cores: 2, gpus: 3}", "cluster.gpus: Extra inputs"),
        ("a: [", "can not be read as a cluster"),
    ],
)
def test_a_wrong_cluster_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_spec(tmp_path / "c.yaml")


def test_what_the_installation_knows_fills_in_what_the_spec_leaves_out(home: Home, tmp_path: Path) -> None:
    small_dataset(home)
    write_json(home.root / "flows/a/ingest.json", {"dataset": NAME, "listed": 20, "ok": 16})
    (tmp_path / "small.yaml").write_text(
        "name: small\nsource: urls.csv\ncolumns: {url: url, caption_en: caption}\nlicence: {name: none}\n"
        "texture_min_side: 64\nupscale: {target_side: 96}\n"
    )
    card = load_card(str(tmp_path / "small.yaml"))
    known = known_corpus(card, home)
    assert (known.rows, known.ok_share, known.kept_share, known.small_share) == (20, 0.8, 0.75, 0.5)
    assert known.row_bytes and known.megapixels == pytest.approx((128 * 128 + 48 * 48) / 2 / 1e6)
    corpus = merged(Corpus(rows=2000, sources={"rows": "a guess"}), known)
    assert (corpus.rows, corpus.ok_share, corpus.sources["rows"]) == (2000, 0.8, "a guess")
    work = count_work(card, recipe("tiny"), corpus, home)
    assert (work.listed, work.ok, work.rows, work.upscaled) == (2000, 1600, 1200, 600)
    assert work.jobs["structure"].operations_per_image > work.jobs["texture"].operations_per_image > 0
    assert work.latent_bytes > 0 and work.encode_operations > 0


def test_a_corpus_that_nobody_knows_is_asked_for(home: Home) -> None:
    with pytest.raises(UserError, match="megapixels"):
        count_work(load_card("openmoji"), recipe("tiny"), Corpus(rows=10), home)
