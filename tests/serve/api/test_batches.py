"""The batch door: a file of requests in, a file of answers out; between other requests, and once each whatever is killed."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from pangu.serve.error_answers import ApiError
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.messages import Job
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests.serve.local import LocalServer, serving, wait_for


def client_of(server: LocalServer, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def line(name: str, **body: Any) -> str:
    asked = {"prompt": "a fox", "num_inference_steps": 4, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/images/generations", "body": asked})


def begun(client: openai.OpenAI, *lines: str) -> Any:
    file = client.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h", metadata={"of": "a test"}
    )


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    wait_for(lambda: client.batches.retrieve(batch_id).status in ("completed", "cancelled"))
    return client.batches.retrieve(batch_id)


def answers(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(each) for each in client.files.content(file_id).text.splitlines()] if file_id else []


def test_the_unmodified_client_gets_an_answer_for_each_line_and_a_broken_one_fails_alone(
    pair_folder: Path, tmp_path: Path
) -> None:
    with serving(pair_folder, batches={"folder": str(tmp_path)}) as server:
        client = client_of(server)
        batch = begun(
            client, line("one", seed=5), "{broken", "", line("two", colour="red"), json.dumps({"body": {}}),
            line("one", seed=6), line("last", seed=7, n=2), line("dry", num_inference_steps=1),
            line("flow", stream=True), '{"custom_id": "else", "url": "/v1/chat/completions"}',
        )  # fmt: skip
        done = ended(client, batch.id)
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (9, 2, 7)
        assert done.metadata == {"of": "a test"} and done.completed_at
        drawn = {each["custom_id"]: each["response"]["body"]["data"] for each in answers(client, done.output_file_id)}
        for name, fields in (("one", {"seed": 5}), ("last", {"seed": 7, "n": 2})):
            alone = server.draw("a fox", num_inference_steps=4, **fields).json()["data"]
            assert [each["b64_json"] for each in drawn[name]] == [each["b64_json"] for each in alone]
        failed = {each["line"]: each for each in answers(client, done.error_file_id)}
        assert set(failed) == {2, 4, 5, 6, 8, 9, 10}
        assert failed[2]["error"]["message"] == "The line is not valid JSON."
        assert failed[4]["response"]["status_code"] == 400
        assert failed[4]["response"]["body"]["error"]["param"] == "colour"
        assert "custom_id is that of line 1" in failed[6]["error"]["message"]
        assert failed[8]["response"]["body"]["error"]["param"] == "num_inference_steps"
        assert [each.id for each in client.batches.list()] == [batch.id]
        for wrong in ({"purpose": "fine-tune"}, {"purpose": "batch"}):
            answer = httpx.post(f"{server.url}/v1/files", data=wrong, files={"other": ("a", b"b")})
            assert answer.status_code == 400
        with pytest.raises(openai.BadRequestError, match="input_file_id"):
            client.batches.create(
                input_file_id=done.output_file_id, endpoint="/v1/images/generations", completion_window="24h"
            )
        for path in ("files/../batch.json", "batches/batch_" + "0" * 24, "files/file-" + "0" * 24 + "/content"):
            assert httpx.get(f"{server.url}/v1/{path}").status_code == 404
        client.files.delete(batch.input_file_id)
        assert client.batches.retrieve(batch.id).status == "completed"


def test_a_server_that_ends_in_the_middle_goes_on_behind_the_last_answer(pair_folder: Path, tmp_path: Path) -> None:
    settings = {"batches": {"folder": str(tmp_path)}}
    lines = [line(f"picture {number}", num_inference_steps=12) for number in range(6)]
    with serving(pair_folder, **settings) as server:
        batch = begun(client_of(server), *lines)
        output = tmp_path / "batches" / batch.id / "output.jsonl"
        wait_for(lambda: output.is_file() and output.read_bytes().count(b"\n") >= 2)
    before = output.read_bytes()
    whole = before.count(b"\n")
    assert 2 <= whole < len(lines), "it ended in the middle"
    output.write_bytes(before + before[:100])  # as a writer that was killed leaves it
    with serving(pair_folder, **settings) as server:
        client = client_of(server)
        found = answers(client, ended(client, batch.id).output_file_id)
        assert output.read_bytes().startswith(before), "what was answered stays"
        assert [each["custom_id"] for each in found] == [f"picture {number}" for number in range(6)]
        seeds = [each["response"]["body"]["seed"] for each in found]
        assert len(set(seeds)) == 6
        again = server.draw("a fox", num_inference_steps=12, seed=seeds[5]).json()
        assert again["data"][0]["b64_json"] == found[5]["response"]["body"]["data"][0]["b64_json"]
        second = begun(client, *[line(f"never {number}", num_inference_steps=100) for number in range(50)])
        assert client.batches.cancel(second.id).status in ("cancelling", "cancelled")
        assert ended(client, second.id).request_counts.completed < 50


def test_a_line_waits_for_others_and_takes_nobodys_place() -> None:
    async def waited() -> None:
        engine = RequestEngine({}, ServeSettings(max_in_flight=1), Metrics())
        with engine._admitted():
            behind = asyncio.create_task(engine.draw_behind(Job("a fox", 1)))
            await asyncio.sleep(0.3)
            assert not behind.done()
        with pytest.raises(ApiError, match="not available"):
            await behind
        assert engine._in_flight == 0

    asyncio.run(waited())


def test_files_and_batches_belong_to_the_key_that_made_them(pair_folder: Path, tmp_path: Path) -> None:
    keys = [{"name": name, "key": f"{name}-has-a-long-random-key"} for name in ("one", "other")]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    with serving(pair_folder, keys_file=str(tmp_path / "keys.json"), batches={"folder": str(tmp_path / "b")}) as server:
        own, other = (client_of(server, each["key"]) for each in keys)
        batch = begun(own, line("mine", seed=1))
        done = ended(own, batch.id)
        assert base64.b64decode(answers(own, done.output_file_id)[0]["response"]["body"]["data"][0]["b64_json"])
        for forbidden in (
            lambda: other.batches.retrieve(batch.id),
            lambda: other.batches.cancel(batch.id),
            lambda: other.files.content(done.output_file_id),
            lambda: other.files.delete(batch.input_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                forbidden()
        assert list(other.batches.list()) == []
        with pytest.raises(openai.AuthenticationError):
            begun(client_of(server), line("nobody"))
        assert time.time() - done.created_at < 600
