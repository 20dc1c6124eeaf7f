"""Any text is a prompt; the log says once which of it is unknown, and what is no text is refused."""

import logging

import pytest

from pangu.errors import UserError
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests import subtests


@pytest.fixture(autouse=True)
def _small_vocabularies_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at hand are smaller than any that words are judged by; the rule is the same."""
    monkeypatch.setattr("pangu.models.known_words.SMALL_VOCABULARY", 512)


@subtests.parametrize("prompt", ["", "...", "🦊" * 10_000, "a\0b", "\u202efox", "👩\u200d🚒\ufe0f"])
def test_any_text_is_drawn(pair: PanGuDrawPipeline, prompt: str) -> None:
    assert len(pair(prompt, num_inference_steps=2).images) == 1


def test_half_a_surrogate_pair_is_refused_wherever_text_is_read(pair: PanGuDrawPipeline) -> None:
    for arguments in (
        {"prompt": "a \ud83e fox"},
        {"prompt": ["fox", "\udfff"]},
        {"prompt": "fox", "negative_prompt": "\ud800"},
    ):
        with pytest.raises(UserError, match="surrogate pair") as caught:
            pair(**arguments, num_inference_steps=2)
        assert str(caught.value).isascii()


def test_words_that_no_tower_knows_are_logged_once_and_known_ones_never(
    pair: PanGuDrawPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for prompt in ("зелёный попугай", "зелёный попугай", "зелёный, зелёный попугай!"):
            pair(prompt, num_inference_steps=2)
        pair.encode_prompt(["red apple", "红苹果", "попугай, red apple"])
    said = [record.getMessage() for record in caplog.records if "unknown" in record.getMessage()]
    assert len(said) == 1 and said[0].endswith("зелёный попугай")


def test_a_server_keeps_prompts_out_of_its_log(pair: PanGuDrawPipeline, caplog: pytest.LogCaptureFixture) -> None:
    pair.warns_of_text = False
    pair("синий попугай", num_inference_steps=2)
    assert "попугай" not in caplog.text
