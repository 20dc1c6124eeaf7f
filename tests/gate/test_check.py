"""The gate with real pairs and a real registry: no champion, the champion itself, another pair against it."""

import shutil
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from flows.gate import markdown
from pangu.config import Gate, GateRule, InitialWeights, Sampling
from pangu.contract import GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.evaluate.evaluation import evaluate, pair_digest, plan
from pangu.evaluate.metrics import Judges
from pangu.evaluate.protocol import EvaluateOutcome
from pangu.evaluate.scored_prompts import PromptScores
from pangu.exchange.quantise_pair import quantise_pair
from pangu.gate import Decision, check_pair_at_gate
from pangu.pipelines.assemble import assemble_experts
from pangu.registry import release
from pangu.registry.fetch import pair_contracts
from pangu.storage import write_json

GATE = Gate(rules=(GateRule(metric="understanding_similarity"),), resamples=200)
NO_FLOOR = GATE.model_copy(update={"floor": "none"})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's own store in a SQLite file; to make its tables takes a second and a half."""
    folder = tmp_path_factory.mktemp("mlflow")
    SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def registry(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without a server."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture(scope="module")
def outcomes(bench, structures, textures) -> list[EvaluateOutcome]:
    """Two pairs, measured by one protocol."""
    protocol = plan(
        bench.recipe, bench.home, bench.dataset, bench.version, Judges(), prompts_per_language=3, num_inference_steps=2
    )
    arguments = (bench.recipe, bench.dataset, bench.encode_id, bench.home)
    return [evaluate(structure, textures[0], *arguments, protocol=protocol) for structure in structures]


def at_gate(bench, outcome: EvaluateOutcome, folder: Path, gate: Gate = GATE, **changes: object) -> Decision:
    path = folder / f"{outcome.pair_id}.json"
    write_json(path, outcome.model_dump(mode="json"))
    recipe = bench.recipe.model_copy(update={"gate": gate, **changes})
    return check_pair_at_gate(path, recipe, bench.dataset, bench.version, bench.home)


def test_the_means_of_the_prompts_are_the_metrics(outcomes) -> None:
    for outcome in outcomes:
        by_prompt = PromptScores.load(Path(outcome.prompt_scores))
        assert by_prompt.means == {name: outcome.metrics[name] for name in by_prompt.values}
        assert {len(values) for values in by_prompt.values.values()} == {3}


@pytest.mark.usefixtures("registry")
def test_a_pair_meets_the_champion_on_the_prompts_that_both_have_drawn(
    bench, structures, textures, outcomes, tmp_path
) -> None:
    first, second = outcomes
    assert at_gate(bench, first, tmp_path).champion_version is None
    version = release(Path(first.pair), structures[0], textures[0], first).pair_version

    itself = at_gate(bench, first, tmp_path)
    assert itself.passed and itself.already_done and itself.champion_version == version

    decision = at_gate(bench, second, tmp_path)
    assert decision.champion_version == version and decision.protocol_hash == second.protocol_hash
    (kept,) = (bench.home.root / "gate").glob("[!s]*.json")
    assert PromptScores.load(kept) == PromptScores.load(Path(first.prompt_scores))
    assert Path(decision.champion_grid).read_bytes() == Path(first.sample_grid).read_bytes()
    for verdict in decision.verdicts:
        assert verdict.champion == first.metrics[verdict.metric]
        assert verdict.difference is not None and verdict.difference.prompts == 3
        assert verdict.difference.low <= verdict.difference.mean <= verdict.difference.high

    impossible = Gate(rules=(GateRule(metric="understanding_similarity", against_champion="better", margin=3.0),))
    refused = at_gate(bench, second, tmp_path, impossible)
    assert not refused.passed and "is not better by a margin of 3." in refused.reason


@pytest.mark.long
@pytest.mark.usefixtures("registry")
def test_a_champion_of_three_experts_takes_as_many_steps_as_it_prefers_where_those_of_two_are_too_few(
    bench, structures, textures, outcomes, tmp_path
) -> None:
    halves = [
        bench.generator(name, "texture", 5, TimeInterval(*own)) for name, own in (("m", (200, 500)), ("t", (0, 200)))
    ]
    three = (structures[0], *halves)
    prefers = bench.recipe.model_copy(update={"sampling": Sampling(num_inference_steps=12)})
    pair = assemble_experts(three, prefers, tmp_path / "three")
    with pytest.raises(UserError, match="the least number"):
        pair("fox", num_inference_steps=2)
    middle = halves[0]
    contract = GeneratorContract.load(middle).model_copy(update={"role": "middle"})
    contract.save(middle)
    measured = outcomes[1].model_copy(update={"pair": str(tmp_path / "three"), "pair_id": pair_digest(*three)})
    version = release(tmp_path / "three", three[0], three[2], measured, middle_dirs=[middle]).pair_version
    for _ in range(2):  # the second time from what was kept
        decision = at_gate(bench, outcomes[1], tmp_path)
        assert decision.champion_version == version and decision.compared_with == f"version {version} in 12 steps"
        assert "in 12 steps" in decision.reason and decision.verdicts[0].difference.prompts == 3
        assert f"champion, version {version} in 12 steps" in markdown(decision.model_dump())


@pytest.mark.usefixtures("registry")
@pytest.mark.long
def test_a_quantised_pair_is_measured_and_meets_at_the_gate_the_one_that_it_was_made_of(
    bench, structures, textures, outcomes, tmp_path
) -> None:
    """On the same prompts, as a pair of its own: near the champion, not the champion, and released if it passes."""
    first = outcomes[0]
    version = release(Path(first.pair), structures[0], textures[0], first).pair_version
    made = quantise_pair(first.pair, "small", bench.home)
    halves = (Path(made.pair) / "structure", Path(made.pair) / "texture")
    arguments = (bench.recipe, bench.dataset, bench.encode_id, bench.home)
    small = evaluate(*halves, *arguments, protocol=first.protocol)
    assert small.pair_id != first.pair_id and small.protocol_hash == first.protocol_hash
    contracts = pair_contracts(Path(small.pair))
    assert {each.quantised for each in contracts.values()} == {"int8"}
    decision = at_gate(bench, small, tmp_path)
    assert decision.champion_version == version and decision.pair_id == small.pair_id
    for verdict in decision.verdicts:
        assert verdict.champion == first.metrics[verdict.metric] and verdict.difference.prompts == 3
        # int8 changes what is drawn, by less than other weights do.
        others = outcomes[1].metrics[verdict.metric] - first.metrics[verdict.metric]
        assert 0 < abs(verdict.difference.mean) < abs(others)
    strict = Gate(rules=(GateRule(metric="understanding_similarity", against_champion="better", margin=3.0),))
    assert not at_gate(bench, small, tmp_path, strict).passed
    lenient = Gate(rules=(GateRule(metric="understanding_similarity", against_champion="not_inferior", margin=1.0),))
    passed = at_gate(bench, small, tmp_path, lenient)
    assert passed.passed
    assert release(Path(small.pair), *halves, small).pair_version == version + 1


@pytest.mark.usefixtures("registry")
def test_a_first_pair_is_held_against_what_its_training_started_from(bench, outcomes, tmp_path) -> None:
    """Random generators are no better than others; a start that draws as they do is not shown to be better either."""
    first = outcomes[0]
    refused = at_gate(bench, first, tmp_path)
    assert not refused.passed and refused.champion_version is None
    assert refused.compared_with == "an untrained pair" and "is not better" in refused.reason
    assert all(verdict.difference is not None for verdict in refused.verdicts)
    assert Path(refused.champion_grid).is_file()
    assert at_gate(bench, first, tmp_path) == refused

    started = at_gate(bench, first, tmp_path, init_from=InitialWeights(source=first.pair))
    assert started.passed and started.reason.endswith("compared with what training started from.")
    assert {verdict.champion for verdict in started.verdicts} == {first.metrics[one.metric] for one in started.verdicts}

    anything = at_gate(bench, first, tmp_path, NO_FLOOR)
    assert anything.passed and "no floor for a first pair" in anything.reason and anything.compared_with == ""

    gone = InitialWeights(source=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        at_gate(bench, first, tmp_path, init_from=gone)


def test_a_file_that_is_no_evaluation_is_refused(bench, tmp_path) -> None:
    write_json(tmp_path / "x.json", {"pair_id": "x"})
    with pytest.raises(UserError, match=r"x\.json does not hold the outcome of `pangu evaluate`"):
        check_pair_at_gate(tmp_path / "x.json", bench.recipe, bench.dataset, bench.version, bench.home)
