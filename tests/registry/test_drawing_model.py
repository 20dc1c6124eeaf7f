"""A registered pair in MLflow's own programs: its loader and server draw what the pipeline draws, its pages say what it is."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from PIL import Image

from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.image_grid import png
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import tiny
from pangu.registry import drawing_model, fetch_pair, release
from pangu.registry.manifest import MLFLOW_FILES, Manifest
from pangu.stack.ports import free_port
from pangu.storage import read_json
from pangu.train.mlflow_names import EXPERIMENT, RUN_NAME

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 2


def real_pair(home: Path) -> dict[str, Path]:
    """A pair that draws, and its halves as they lie in the folders of two runs."""
    pair = untrained_pair(tiny(), 0)
    save_pair(pair, home / "pairs/fox")
    places = {"pair": home / "pairs/fox"}
    for role in ("structure", "texture"):
        places[role] = home / "runs" / f"fox-{role}" / "generator"
        pair.generator(role).save_pretrained(places[role])
        contract = GeneratorContract.model_validate(read_json(places["pair"] / "model_index.json")["contracts"][role])
        contract.save(places[role])
    (home / "grid.png").write_bytes(b"\x89PNG, in the eyes of whoever only copies it")
    return places


def evaluated(places: dict[str, Path], home: Path) -> dict[str, object]:
    figures = {f"clip_score_{number:02}": number / 3 for number in range(20)}
    said = {
        "pair_id": "fox",
        "pair": str(places["pair"]),
        "metrics": figures,
        "protocol": "p",
        "protocol_hash": "c" * 16,
    }
    return said | {"sample_grid": str(home / "grid.png")}


def levels(png_bytes: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png_bytes)).convert("RGB")).astype(int)


def drawn(folder: Path, prompts: list[str], seed: int) -> list[bytes]:
    from pangu.pipelines import PanGuDrawPipeline

    pipe = PanGuDrawPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    return [png(image) for image in pipe(prompts, num_inference_steps=STEPS, generator=noise).images]


def served(model: str, question: dict, log: Path) -> httpx.Response:
    """The answer of `mlflow models serve`, which is started and ended."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    with log.open("w") as sink:
        server = subprocess.Popen(
            [*command, "-p", str(port), "--workers", "1"], stdout=sink, stderr=sink, start_new_session=True, cwd=log.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{port}/ping", timeout=5)
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            return httpx.post(f"http://127.0.0.1:{port}/invocations", json=question, timeout=300)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


@pytest.mark.long
def test_mlflow_loads_serves_and_shows_a_registered_pair_without_pickle_and_with_its_weights_once(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANGU_HOME", str(tmp_path))
    client, places = MlflowClient(registry), real_pair(tmp_path)
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    training = client.create_run(experiment, tags={RUN_NAME: "fox-structure"})
    outcome = release(places["pair"], places["structure"], places["texture"], evaluated(places, tmp_path))
    version = client.get_model_version("pangu-pair", str(outcome.pair_version))

    mlflow.set_tracking_uri(registry)
    model = mlflow.pyfunc.load_model("models:/pangu-pair@champion")
    rows = pd.DataFrame({"prompt": ["a red fox", "the moon"], "negative_prompt": [None, None]})
    params = {"num_inference_steps": STEPS, "seed": 7}
    images = [base64.b64decode(text) for text in model.predict(rows, params)["image"]]
    expected = drawn(places["pair"], ["a red fox", "the moon"], 7)
    assert images == expected
    alone = base64.b64decode(model.predict(rows[1:], params | {"seed": 8})["image"].iloc[0])
    assert [alone] == drawn(places["pair"], ["the moon"], 8)
    # The seed counts up by row; a batch of another size rounds otherwise.
    assert np.abs(levels(alone) - levels(expected[1])).max() <= 1
    assert model.metadata.get_input_schema().input_names() == ["prompt", "negative_prompt"]
    assert list(model.input_example.columns) == ["prompt"]
    answer = served(
        f"models:/pangu-pair/{outcome.pair_version}",
        {"dataframe_records": [{"prompt": "a red fox"}], "params": params},
        tmp_path / "serve.log",
    )
    assert base64.b64decode(answer.json()["predictions"][0]["image"]) == expected[0], answer.text

    repository = get_artifact_repository(version.source)
    beside = [found for found in repository.list_artifacts() if found.path in (*MLFLOW_FILES, "manifest.json")]
    assert len(beside) == len(MLFLOW_FILES) + 1 and sum(found.file_size for found in beside) < 20_000
    assert {found.path for found in client.list_artifacts(version.run_id)} == {"samples.png"}
    fetched = fetch_pair("champion", tmp_path / "cache")
    assert Manifest.of(fetched) == Manifest.of(places["pair"])

    # The pages.
    assert not any(name.startswith("pangu.metric") for name in version.tags)
    logged = client.get_logged_model(client.get_run(version.run_id).outputs.model_outputs[0].model_id)
    assert logged.status == "READY" and logged.artifact_location == version.source
    assert {metric.key: metric.value for metric in logged.metrics} == evaluated(places, tmp_path)["metrics"]
    said = version.description
    assert f"(#/models/pangu-structure/versions/{outcome.structure_version})" in said
    assert f"runs/{training.info.run_id})" in said and "[500, 1000)" in said and "4 more are metrics" in said
    assert f"get-artifact?path=samples.png&run_uuid={version.run_id}" in said
    half = client.get_model_version("pangu-structure", str(outcome.structure_version))
    assert f"(#/models/pangu-pair/versions/{outcome.pair_version})" in half.description
    note = client.get_run(training.info.run_id).data.tags["mlflow.note.content"]
    made = f"pangu-structure/versions/{outcome.structure_version})"
    assert note.startswith("Released as [pangu-structure ") and note.endswith(f"(#/models/{made}")
    client.update_model_version("pangu-pair", version.version, "what a person wrote")
    assert release(places["pair"], places["structure"], places["texture"], evaluated(places, tmp_path)).already_done
    assert client.get_model_version("pangu-pair", version.version).description == "what a person wrote"
    assert "champion" in client.get_registered_model("pangu-pair").description

    # What is not the released one is not drawn with.
    weights = fetched / "texture/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="differs from what was released"):
        mlflow.pyfunc.load_model(str(fetched))
    Manifest.of(fetched).save(fetched)
    with pytest.raises(UserError, match="No version of pangu-pair has the files of"):
        mlflow.pyfunc.load_model(str(fetched))
    monkeypatch.setattr(drawing_model, "version", lambda _: "2.22.0")
    with pytest.raises(UserError, match=r"MLflow 2\.22\.0 is too old for a registered pair; install one of today"):
        mlflow.pyfunc.load_model(str(fetched))
