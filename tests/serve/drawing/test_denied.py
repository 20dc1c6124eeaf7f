"""The deny list holds against case, width, accents and white space, and leaves other words alone."""

import pytest

from pangu.serve.drawing.denied import denied_word
from pangu.serve.drawing.messages import Job, TextureJob
from tests.serve.local import serving

WORDS = ("gun", "secret weapon", "炸弹")


@pytest.mark.parametrize("prompt", ["a gun", "A GUN!", "ｇｕｎ", "gún", "a secret\n weapon", "画一个炸弹吧", "gun"])
def test_a_denied_word_is_found(prompt: str) -> None:
    assert denied_word(Job(prompt, 0), WORDS) is not None
    assert denied_word(Job("x", 0, texture=TextureJob(prompt=prompt)), WORDS) is not None


@pytest.mark.parametrize("prompt", ["a burgundy gown", "begun", "a secret", "炸鸡", ""])
def test_other_words_are_left_alone(prompt: str) -> None:
    assert denied_word(Job(prompt, 0), WORDS) is None
    assert denied_word(Job("a gun", 0), ()) is None


def test_a_denied_prompt_is_refused_as_openai_does_it(pair_folder) -> None:
    with serving(pair_folder, denied_words=WORDS) as server:
        for more in ({}, {"stream": True}):
            answer = server.draw("one GUN", **more)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("moderation_blocked", "prompt")
            assert "gun" not in error["message"].lower()
        assert server.draw("a fox", seed=1).status_code == 200
