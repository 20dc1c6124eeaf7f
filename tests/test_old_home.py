"""A home that earlier code made still opens: its small files, as that code wrote them in November 2026, read by the code of now.

Ids of folders are digests of what lies in them: a field that is renamed, or read otherwise, makes another id, and finished work
would be done again.
"""

import json
from importlib import import_module
from pathlib import Path

import pytest

from pangu.contract import GeneratorContract, check_pair
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.fidelity import Fidelity
from pangu.data.ingest.stage import IngestOutcome
from pangu.data.prepare.publish import PrepareOutcome
from pangu.data.table.versions import log
from pangu.evaluate.scored_prompts import SUFFIX, PromptScores
from pangu.gate.check import read_outcome
from pangu.registry.manifest import Manifest
from pangu.serve.settings import ServeSettings, read_settings
from pangu.stack.model import Stack
from pangu.storage import Home, read_json
from pangu.train.checkpoint import CheckpointState, check_same_run
from pangu.train.history import read_history
from pangu.train.job import TrainOutcome, read_job
from pangu.train.launch import default_run_name

DATASET, ENCODED, KEY = "openmoji", "2c30b28a1f38d679", "b71b0e8a306c797a"
RUN, PAIR, PROTOCOL = "structure-2c30b28a-6c59f8e4", "f386c72df5cf80f3", "16c92ea9fe02acc7"
PAIR_SHA256 = "12535efadd224885d0f643056ec6147b2a7708d34eaa96d83725866edbe9ebe5"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    for name, text in read_json(Path(__file__).with_name("old_home.json")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Home(tmp_path, tables="")


def test_the_stack_and_what_was_served_are_known(home: Home) -> None:
    stack = Stack.load(home)
    assert stack is not None and (stack.stack_id, stack.prefect_port, stack.serve_port) == ("old", 1, 6)
    assert not stack.is_running and stack.profile.name == "laptop"
    assert read_settings(home.root / "served-settings.json") == ServeSettings()
    assert read_json(home.root / "served.json")["arguments"][:2] == ["deploy", "--pair-version"]


def test_datasets_are_found_under_their_ids(home: Home) -> None:
    manifest = EncodedManifest.load(home.encoded(DATASET, ENCODED))
    assert manifest.encode_id() == ENCODED
    assert manifest.rows == {"structure": 24, "texture": 12}
    assert Fidelity.load(home.encoded(DATASET, ENCODED)) is not None
    prepared = PrepareOutcome(**read_json(home.dataset(DATASET) / "outcomes" / f"{KEY}.json"))
    [version] = log(home, DATASET)
    assert (version.version, version.key) == (prepared.version, prepared.key) == (0, KEY)
    [ingested] = (home.dataset(DATASET) / "raw").glob("*/outcome.json")
    assert IngestOutcome(**read_json(ingested)).listed == 36
    assert version.facts["ingest_id"] == ingested.parent.name


def test_a_run_is_found_under_its_name_and_goes_on_from_its_checkpoint(home: Home) -> None:
    folder = home.run(RUN)
    job = read_job(folder)
    assert job is not None and default_run_name("structure", ENCODED, job.recipe) == job.run_name == RUN
    state = CheckpointState.model_validate(read_json(folder / "checkpoints" / "step-000002" / "state.json"))
    check_same_run(state, "structure", ENCODED, job.recipe)
    assert state.step == 2 and state.averages and state.optimizer_groups and len(state.files) == 3
    assert [line.step for line in read_history(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    assert TrainOutcome.model_validate(read_json(folder / "outcome.json")).run_name == RUN
    encoders = EncodedManifest.load(home.encoded(DATASET, ENCODED))
    assert GeneratorContract.load(folder / "generator") == job.contract(encoders)


def test_a_pair_is_whole_by_its_own_index_and_names_classes_that_are_there(home: Home) -> None:
    index = read_json(home.pair(PAIR) / "model_index.json")
    assert index["_class_name"] == "PanGuDrawPipeline"
    contracts = {role: GeneratorContract.model_validate(index["contracts"][role]) for role in ("structure", "texture")}
    check_pair(contracts["structure"], contracts["texture"])
    parts = [value for value in index.values() if isinstance(value, list) and len(value) == 2 and value[0] is not None]
    named = [(library, name) for library, name in parts if isinstance(name, str) and isinstance(library, str)]
    assert len(named) >= 6
    assert [pair for pair in named if not hasattr(import_module(pair[0]), pair[1])] == []
    assert Manifest.load(home.pair(PAIR), PAIR_SHA256).sha256 == PAIR_SHA256


def test_an_evaluation_is_that_of_the_same_protocol(home: Home) -> None:
    outcome = home.pair(PAIR).with_name(f"{PAIR}-{PROTOCOL}.json")
    found = read_outcome(outcome)
    assert found.protocol.digest() == found.protocol_hash == PROTOCOL
    by_prompt = PromptScores.load(outcome.with_name(outcome.stem + SUFFIX))
    assert json.loads(outcome.read_text())["metrics"].keys() >= by_prompt.values.keys()
