"""Captions by a served model: each goes to the picture that was sent, nothing is asked twice, and what is no caption is told."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.data.captions import is_long
from pangu.data.card import Card
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.chat_endpoint import Pace
from pangu.data.prepare.served_captions import FEW, usable
from pangu.data.prepare.stage import PrepareOutcome, WorkerSettings, prepare
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.prepare.caption_server import COLOURS, Answer, Server, caption_server, captions_of, completion

BOTH = (("short", "en"), ("short", "zh"))
COUNT = 12
"""Of pictures; those after the third are of shades that JPEG keeps apart from others' colours."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with caption_server() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.address)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        yield running


def card_of(folder: Path, **server: Any) -> Card:
    """A folder of squares in three colours; one is listed in English, all others have no words."""
    folder.mkdir(exist_ok=True)
    for number in range(COUNT):
        _, colour = COLOURS[list(COLOURS)[number % 3]]
        Image.new("RGB", (40 + number, 40), colour).save(folder / f"{number:02d}.png")
    (folder / "00.txt").write_text("a red thing")
    settings = {"model": "eyes", "patience_s": 0.0, **server}
    return Card.model_validate(
        {
            "name": "squares", "source": str(folder), "columns": {"caption_en": "txt"}, "licence": {"name": "CC0"},
            "texture_min_side": 32, "upscale": {"target_side": 48, "min_timestep": 300},
            "filters": {"max_aspect": 3}, "fill_captions": {"server": settings},
        }
    )  # fmt: skip


def prepared(card: Card, home: Home, workers: int = 1) -> PrepareOutcome:
    return prepare(card, ingest(card, home).ingest_id, home, execution=WorkerSettings(workers=workers))


def colour_of(row: dict[str, Any]) -> str:
    return list(COLOURS)[(row["original_width"] - 40) % 3]


def test_every_caption_goes_to_its_picture_and_says_who_wrote_it(server: Server, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    outcome = prepared(card_of(tmp_path / "in", lengths=["short", "long"], instructions="Squares."), home)
    rows = read_rows(home, "squares", outcome.version).to_pylist()
    assert len(rows) + sum(outcome.dropped.values()) == COUNT and len(rows) > 3
    for row in rows:
        said, listed = captions_of(colour_of(row)), row["original_width"] == 40
        assert row["caption_en"] == ("a red thing" if listed else said["short_en"])
        assert row["caption_en_by"] == (None if listed else "server:eyes")
        assert (row["caption_zh"], row["caption_zh_by"]) == (said["short_zh"], "server:eyes")
        for language in ("en", "zh"):
            assert row[f"more_captions_{language}"] == [said[f"long_{language}"].strip()]
            assert row[f"more_captions_{language}_by"] == "server:eyes"
    assert len(server.asked) == COUNT and set(server.keys) == {"Bearer a-key"}
    questions = [asked["messages"][0]["content"][0]["text"] for asked in server.asked]
    assert all(text.startswith("Squares.") for text in questions)
    assert [text for text in questions if '"short_en"' not in text] == [
        t for t in questions if "listed as: a red thing" in t
    ]


def test_another_version_asks_only_for_what_no_answer_is_kept_of(server: Server, tmp_path: Path) -> None:
    home, card = Home(tmp_path / "home"), card_of(tmp_path / "in")
    first = prepared(card, home)
    again = prepared(card.model_copy(update={"style": "drawn"}), home, workers=2)
    assert again.version > first.version and again.rows == first.rows and len(server.asked) == COUNT


def test_a_server_that_goes_away_stops_the_work_and_is_asked_for_the_rest_alone(server: Server, tmp_path: Path) -> None:
    home, card = Home(tmp_path / "home"), card_of(tmp_path / "in", at_once=1)
    server.first = lambda number, asked: (503, "overloaded", {}) if number >= 5 else None
    with pytest.raises(UserError, match=r"is away \(status 503\); what it has written is kept"):
        prepared(card, home)
    refused = len(server.asked) - 5
    assert refused <= 2  # one is asked while the one before is waited for
    server.first = lambda number, asked: None
    assert prepared(card, home).rows and len(server.asked) == 5 + refused + COUNT - 5


def test_a_busy_server_is_waited_for(server: Server, tmp_path: Path) -> None:
    server.first = lambda number, asked: (429, "slow down", {"retry-after": "0.01"}) if number % 2 == 0 else None
    outcome = prepared(card_of(tmp_path / "in", patience_s=60.0, at_once=1), Home(tmp_path / "home"))
    assert len(server.asked) == 2 * COUNT and "unusable_caption" not in outcome.dropped


def test_an_answer_that_stops_in_the_middle_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    """The line is cut behind half of what was announced; nothing of it is taken for a caption."""
    half = '{"choices": [{"message": {"content": "{\\"short_en\\": \\"a gre'
    server.first = lambda number, asked: (200, half, {"Content-Length": "2000"}) if number in (1, 2) else None
    home = Home(tmp_path / "home")
    outcome = prepared(card_of(tmp_path / "in", patience_s=60.0, at_once=1), home)
    assert len(server.asked) == COUNT + 2 and "unusable_caption" not in outcome.dropped
    assert all(row["caption_en"] for row in read_rows(home, "squares", outcome.version).to_pylist())


def test_a_server_without_formats_is_asked_without(server: Server, tmp_path: Path) -> None:
    def refuse(number: int, asked: dict[str, Any]) -> Answer | None:
        return (400, "unknown field response_format", {}) if "response_format" in asked else None

    server.first = refuse
    assert prepared(card_of(tmp_path / "in", at_once=1), Home(tmp_path / "home")).rows
    assert [("response_format" in asked) for asked in server.asked] == [True] + [False] * COUNT


def test_pictures_without_a_usable_answer_are_dropped_and_counted(server: Server, tmp_path: Path) -> None:
    useless = {1: "I see a square.", 4: json.dumps({"short_en": "I'm sorry, I cannot help.", "short_zh": ""})}
    server.first = lambda number, asked: completion(useless[number]) if number in useless else None
    home = Home(tmp_path / "home")
    outcome = prepared(card_of(tmp_path / "in", at_once=1), home)
    assert outcome.dropped["unusable_caption"] == 2 and outcome.rows + sum(outcome.dropped.values()) == COUNT


@subtests.parametrize(
    ("answer", "sentence", "most"),
    [
        (
            (200, "<html>Welcome</html>", {}),
            r"answers no chat completion but '<html>Welcome</html>'; OPENAI_BASE_URL must",
            1,
        ),
        ((401, "bad key", {}), r"refuses with status 401: 'bad key'; check OPENAI_BASE_URL, OPENAI_API_KEY", 1),
        (completion("What a lovely picture! " * 200), rf"answers no captions: {FEW} of {FEW} answers are useless", FEW),
        (completion(json.dumps(captions_of("red") | {"short_en": "红" * 5, "short_zh": "a" * 5})), "are useless", FEW),
    ],
    ids=["html", "key", "a novel", "languages exchanged"],
)
def test_a_server_that_is_of_no_use_is_told_in_one_sentence(
    answer: Answer, sentence: str, most: int, server: Server, tmp_path: Path
) -> None:
    server.first = lambda number, asked: answer
    server.asked.clear()  # of cases before
    with pytest.raises(UserError, match=sentence):
        prepared(card_of(tmp_path / "in", at_once=1), Home(tmp_path / "home"))
    assert len(server.asked) <= most + 2  # those that were under way


def test_a_server_that_nobody_runs_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and never listened at
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(UserError, match=r"is away \(.*refused\); what it has written is kept"):
            prepared(card_of(tmp_path / "in"), Home(tmp_path / "home"))


def test_no_address_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match=r"OPENAI_BASE_URL names, which is ''; set it to an address"):
        prepared(card_of(tmp_path / "in"), Home(tmp_path / "home"))


@given(st.floats(0.01, 10), st.lists(st.floats(0, 5), min_size=1, max_size=30))
def test_requests_begin_no_closer_than_their_pace(seconds: float, pauses: list[float]) -> None:
    now = [0.0]

    def sleep(wait: float) -> None:
        now[0] += wait

    pace, begun = Pace(seconds, lambda: now[0], sleep), []
    for pause in pauses:
        now[0] += pause
        pace.wait()
        begun.append(now[0])
    assert all(later - earlier >= seconds - 1e-6 for earlier, later in pairwise(begun))
    assert begun[-1] <= sum(pauses) + seconds * (len(pauses) - 1) + 1e-6


@subtests.parametrize(
    ("text", "found"),
    [
        ('{"short_en": "a fox", "short_zh": "一只狐狸"}', {"en": "a fox", "zh": "一只狐狸"}),
        ('Sure:\n```json\n{"short_en": " a\\u200e fox\\n", "short_zh": "狐狸"}\n```', {"en": "a fox", "zh": "狐狸"}),
        ('{"short_en": "a fox"}', {"en": "a fox"}),
        ('{"short_en": "狐狸", "short_zh": "fox"}', {}),
        ('{"short_en": ["a fox"], "short_zh": null}', {}),
        ('{"short_en": "' + "fox " * 200 + '", "short_zh": "抱歉，我无法描述"}', {}),
        ('{"short_en": "a \ufffd"}', {}),
        ("[1, 2]", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_of_an_answer_only_captions_in_their_language_are_used(text: str, found: dict[str, str]) -> None:
    assert {language: caption for (_, language), caption in usable(text, BOTH).items()} == found


def test_what_is_asked_for_as_long_is_long() -> None:
    said = captions_of("blue")
    assert {key: is_long(text, key[-2:]) for key, text in said.items()} == {key: key.startswith("long") for key in said}
