"""Keys: who may draw, how often, and how much at once."""

import hashlib
import json
import os
from pathlib import Path

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.errors import UserError
from pangu.serve.api.keys import Account, ApiKey, KeyRing, parse_keys
from pangu.serve.error_answers import ApiError
from pangu.serve.settings import ServeSettings, read_settings
from tests import subtests
from tests.serve.local import serving

KEY, OTHER = "a-long-enough-key", "another-long-enough-key"


def entry(name: str = "lab", key: str = KEY, **limits: float) -> dict[str, object]:
    return {"name": name, "key": key, **limits}


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 20))
def test_no_minute_holds_more_than_twice_the_rate_and_every_refusal_says_when(pauses: list[float], rate: int) -> None:
    clock = [0.0]
    account = Account(ApiKey(name="x", key=KEY, requests_per_minute=rate), now=lambda: clock[0])
    accepted: list[float] = []
    for pause in pauses:
        clock[0] += pause
        try:
            with account.spend():
                accepted.append(clock[0])
        except ApiError as error:
            assert error.status == 429
            assert error.retry_after_s is not None
            clock[0] += error.retry_after_s
            with account.spend():
                accepted.append(clock[0])
    # A full bucket and what flows into it during the minute.
    assert all(sum(start <= each < start + 60 for each in accepted) <= 2 * rate + 1 for start in accepted)


def test_no_more_than_the_allowed_number_at_once() -> None:
    account = Account(ApiKey(name="x", key=KEY, concurrent=2, requests_per_minute=100))
    with account.spend(), account.spend(), pytest.raises(ApiError, match="2 requests in flight"), account.spend():
        raise AssertionError("unreachable")
    with account.spend():
        pass


def test_a_key_may_be_kept_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"name": "lab", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]))
    ring = KeyRing(file=file)
    account = ring.account(f"Bearer {KEY}")
    assert account is not None
    assert account.key.name == "lab"
    for wrong in (None, "", KEY, f"Basic {KEY}", "Bearer ", f"Bearer {KEY}x", "Bearer \ud800"):
        with pytest.raises(ApiError) as caught:
            ring.account(wrong)
        assert caught.value.status == 401


def test_a_changed_file_counts_at_once_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry()]))
    ring = KeyRing(file=file)
    first = ring.account(f"Bearer {KEY}")
    file.write_text(json.dumps([entry(), entry("new", OTHER)]))
    os.utime(file, (1, 1))
    assert ring.account(f"Bearer {OTHER}") is not None
    assert ring.account(f"Bearer {KEY}") is first
    file.write_text("[")
    os.utime(file, (2, 2))
    assert ring.account(f"Bearer {OTHER}") is not None
    file.write_text(json.dumps([entry("new", OTHER)]))
    os.utime(file, (3, 3))
    with pytest.raises(ApiError):
        ring.account(f"Bearer {KEY}")


@subtests.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "holds no key"),
        ('[{"name": "x"}]', "either 'key' or 'sha256'"),
        ('[{"name": "x", "key": "short"}]', "0.key"),
        ('[{"name": "x", "key": "a-long-enough-key", "rate": 3}]', "0.rate"),
    ],
)
def test_a_bad_list_is_refused_in_a_sentence_that_repeats_no_key(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_keys(text, "keys.json")
    assert KEY not in str(caught.value)


def test_a_server_that_strangers_reach_needs_keys(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"host": "0.0.0.0"}')
    with pytest.raises(UserError, match=r"host 0\.0\.0\.0 is no loopback address"):
        read_settings(path)
    assert ServeSettings(host="0.0.0.0", keys_variable="KEYS").host == "0.0.0.0"
    with pytest.raises(UserError, match="PANGU_TEST_NO_SUCH is not set"):
        KeyRing.of(ServeSettings(keys_variable="PANGU_TEST_NO_SUCH"))


def test_keys_over_http(pair_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry(), entry("slow", OTHER, requests_per_minute=1)]))
    with serving(pair_folder, keys_file=str(file)) as server:
        refused = server.draw()
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        assert client.images.generate(model="pangu-pair", prompt="x").data
        slow = openai.OpenAI(base_url=f"{server.url}/v1", api_key=OTHER, max_retries=0)
        assert slow.images.generate(model="pangu-pair", prompt="x").data
        with pytest.raises(openai.RateLimitError) as caught:
            slow.images.generate(model="pangu-pair", prompt="x")
        assert 1 <= int(caught.value.response.headers["Retry-After"]) <= 60
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).images.generate(prompt="x")
