"""What a release promises, against a real MLflow server."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pangu.contract import GeneratorContract
from pangu.data.trained_on import TrainedOn
from pangu.errors import UserError
from pangu.exchange.quantise_pair import quantise_pair
from pangu.pipelines.experts_pipeline import load_pair
from pangu.registry import fetch_pair, release, resolve
from pangu.registry.fetch import fetch_halves, pair_contracts, unlike
from pangu.registry.manifest import Manifest
from pangu.storage import Home, read_json, sha256_of, write_json
from tests.registry.pairs import evaluation, write_generator, write_pair

pytestmark = pytest.mark.slow


def released(places: dict[str, Path], **options: str):
    return release(places["pair"], places["structure"], places["texture"], evaluation(places), **options)


def count(uri: str, model: str, sha256: str) -> int:
    found = MlflowClient(uri).search_model_versions(f"name = '{model}'")
    return sum(version.tags["pangu.sha256"] == sha256 for version in found)


def test_same_pair_twice_is_one_version_and_the_files_come_back_to_the_byte(registry: str, tmp_path: Path) -> None:
    places = write_pair(tmp_path / "a", seed=10)
    part = {
        "dataset": "photos",
        "version": 3,
        "encode_id": "0" * 16,
        "weight": 0.5,
        "rows": 24,
        "licences": {"CC0": 24},
    }
    TrainedOn.model_validate({"parts": [part]}).save(places["structure"])
    first, second = released(places), released(places)
    assert not first.already_done
    assert second.already_done
    assert first.pair_version == second.pair_version
    assert count(registry, "pangu-pair", first.sha256) == 1
    folder = fetch_pair("champion", tmp_path / "cache")
    assert Manifest.of(folder) == Manifest.of(places["pair"])
    registered = resolve("champion")
    assert (registered.pair_version, registered.structure_version) == (first.pair_version, first.structure_version)
    client = MlflowClient(registry)
    version = client.get_model_version("pangu-pair", str(first.pair_version))
    get_artifact_repository(version.source).delete_artifacts("texture")
    third = released(places)
    assert (third.pair_version, third.already_done) == (first.pair_version, False) and released(places).already_done
    assert Manifest.of(fetch_pair("champion", tmp_path / "other-cache")) == Manifest.of(places["pair"])
    assert version.tags["pangu.protocol_hash"] == "c" * 16
    assert version.tags["pangu.dataset_version"] == "3"
    assert (version.tags["pangu.mixture"], version.tags["pangu.licences"]) == ("photos 3 x 0.5 (CC0: 24)", "CC0")
    described = client.get_model_version("pangu-pair", str(first.pair_version)).description
    assert "photos 3 x 0.5 (CC0: 24)" in described and "Licence of the data: CC0" in described
    texture = client.get_model_version("pangu-texture", str(first.texture_version))
    assert "pangu.mixture" not in texture.tags and "photos" not in texture.description
    assert MlflowClient(registry).get_run(version.run_id).data.metrics == {"retrieval_top1": 0.25}


def test_the_halves_of_a_release_come_with_their_contracts_and_are_told_from_others(
    registry: str, tmp_path: Path
) -> None:
    places, others = write_pair(tmp_path / "a", seed=11), write_pair(tmp_path / "b", seed=12)
    halves = fetch_halves(released(places).pair_version, tmp_path / "cache")
    for role, folder in halves.items():
        assert Manifest.of(folder) == Manifest.of(places[role])
        assert GeneratorContract.load(folder).role == role
        assert unlike([places[role]], folder) == [] and unlike([others[role]], folder) == [folder]
    weights = halves["texture"] / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="differs from what was released"):
        fetch_halves("champion", tmp_path / "cache")


@pytest.mark.long
def test_a_quantised_pair_is_released_and_fetched_like_any(registry: str, tmp_path: Path) -> None:
    quantise_pair("embedded", "small", Home(tmp_path))
    pair = Home(tmp_path).pair("small")
    outcome = released({"pair": pair, "structure": pair / "structure", "texture": pair / "texture"}, alias="small")
    folder = fetch_pair("small", tmp_path / "cache")
    assert {each.quantised for each in pair_contracts(folder).values()} == {"int8"}
    half = MlflowClient(registry).get_model_version("pangu-texture", str(outcome.texture_version))
    assert half.tags["pangu.quantised"] == "int8"
    assert load_pair(folder).texture.time_embedding.linear_1.weight.qdata.dtype == torch.int8


@pytest.mark.long
def test_experts_between_the_two_are_versions_of_their_own(registry: str, tmp_path: Path) -> None:
    """Registered, fetched by role, and part of the pair; a pair that holds another number of them is refused."""
    places = write_pair(tmp_path / "more", 70, high=200)
    middle = write_generator(tmp_path / "more/middle", "middle", 72, low=200)
    index = read_json(places["pair"] / "model_index.json")
    index["contracts"]["middle"] = read_json(middle / "contract.json")
    write_json(places["pair"] / "model_index.json", index)
    shutil.copytree(middle, places["pair"] / "middle", ignore=shutil.ignore_patterns("contract.json"))
    given = places["pair"], places["structure"], places["texture"], evaluation(places)
    with pytest.raises(UserError, match=r"Gap in the pair: structure covers .* and texture covers"):
        release(*given, alias="three")
    outcome = release(*given, alias="three", middle_dirs=[middle])
    assert list(outcome.middle_versions) == ["middle"]
    found = resolve("three")
    assert found.middle_versions == outcome.middle_versions and found.pair_version == outcome.pair_version
    assert pair_contracts(fetch_pair("three", tmp_path / "cache"))["middle"].low == 200
    halves = fetch_halves("three", tmp_path / "cache")
    assert list(halves) == ["structure", "middle", "texture"]
    assert Manifest.of(halves["middle"]).files == Manifest.of(middle).files
    assert release(*given, alias="three", middle_dirs=[middle]).already_done
    plain = write_pair(tmp_path / "plain", 80)
    assert "middle_versions" not in release(
        plain["pair"], plain["structure"], plain["texture"], evaluation(plain), alias="two"
    ).model_dump(mode="json")


def test_a_new_champion_leaves_the_old_one_as_previous_and_shares_an_unchanged_generator(
    registry: str, tmp_path: Path
) -> None:
    old = released(write_pair(tmp_path / "old", seed=20))
    places = write_pair(tmp_path / "new", seed=30)
    shutil.rmtree(places["structure"])
    write_generator(places["structure"], "structure", seed=20)
    shutil.copy(places["structure"] / "diffusion_pytorch_model.safetensors", places["pair"] / "structure")
    new = released(places)
    assert new.structure_version == old.structure_version
    assert new.texture_version != old.texture_version
    assert resolve("champion").pair_version == new.pair_version
    assert resolve("previous").pair_version == old.pair_version


@pytest.mark.long
@pytest.mark.parametrize("kill_at", ["create_run", "log_artifacts", "set_terminated", "create_model_version", "alias"])
def test_killed_in_the_middle_a_rerun_completes_without_a_duplicate(
    registry: str, tmp_path: Path, kill_at: str
) -> None:
    seed = 100 + 10 * ["create_run", "log_artifacts", "set_terminated", "create_model_version", "alias"].index(kill_at)
    places = write_pair(tmp_path / "a", seed=seed)
    write_json(tmp_path / "evaluation.json", evaluation(places))
    killed = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("killed_release.py")),
            str(tmp_path),
            str(places["pair"]),
            kill_at,
        ],
        env=dict(os.environ),
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    outcome = released(places)
    assert not outcome.already_done
    for model, role in (("pangu-structure", "structure"), ("pangu-texture", "texture"), ("pangu-pair", "pair")):
        assert count(registry, model, Manifest.of(places[role]).sha256) == 1
    assert resolve("champion").pair_version == outcome.pair_version
    assert Manifest.of(fetch_pair("champion", tmp_path / "cache")) == Manifest.of(places["pair"])


def test_mismatched_generators_are_refused_before_anything_is_registered(registry: str, tmp_path: Path) -> None:
    places = write_pair(tmp_path / "a", seed=40, autoencoder_hash="z" * 16)
    with pytest.raises(UserError, match="autoencoder_hash"):
        released(places)
    assert count(registry, "pangu-structure", Manifest.of(places["structure"]).sha256) == 0


def test_a_pair_made_of_other_generators_is_refused(registry: str, tmp_path: Path) -> None:
    places = write_pair(tmp_path / "a", seed=50)
    places["texture"] = write_generator(tmp_path / "other", "texture", seed=99, dataset_version=4)
    with pytest.raises(UserError, match="holds another texture generator"):
        released(places)


def test_metrics_of_another_pair_and_an_alias_that_reads_as_a_version_are_refused(
    registry: str, tmp_path: Path
) -> None:
    places = write_pair(tmp_path / "a", seed=80)
    other = {**evaluation(places), "pair": "pairs/another"}
    with pytest.raises(UserError, match="The metrics are those of pairs/another"):
        release(places["pair"], places["structure"], places["texture"], other)
    for alias in ("7", "v7", "latest", ""):
        with pytest.raises(UserError, match="can not be an alias"):
            released(places, alias=alias)


def test_a_pickle_is_refused(registry: str, tmp_path: Path) -> None:
    places = write_pair(tmp_path / "a", seed=60)
    (places["pair"] / "weights.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"weights\.bin"):
        released(places)


def test_a_file_changed_added_or_removed_in_the_cache_is_refused(registry: str, tmp_path: Path) -> None:
    outcome = released(write_pair(tmp_path / "a", seed=70))
    folder = fetch_pair(outcome.pair_version, tmp_path / "cache")
    weights = folder / "texture" / "diffusion_pytorch_model.safetensors"
    original, before = weights.read_bytes(), sha256_of(weights)
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert sha256_of(weights) != before
    with pytest.raises(UserError, match="differs"):
        fetch_pair(outcome.pair_version, tmp_path / "cache")
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        fetch_pair(outcome.pair_version, tmp_path / "cache")
    weights.write_bytes(original)
    (folder / "extra.py").write_text("print('hello')")
    with pytest.raises(UserError, match="not in the manifest"):
        fetch_pair(outcome.pair_version, tmp_path / "cache")


@pytest.mark.parametrize("which", ["nobody", "999999"])
def test_an_unknown_alias_or_version_is_one_sentence_with_the_remedy(registry: str, tmp_path: Path, which: str) -> None:
    with pytest.raises(UserError, match=r"pangu-pair has no .* `pangu release`"):
        fetch_pair(which, tmp_path)


def test_no_server_and_no_address_say_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="pangu up"):
        fetch_pair("champion", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="pangu up"):
        fetch_pair("champion", tmp_path)
