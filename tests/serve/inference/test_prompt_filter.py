"""The deny list holds against case, width, accents and white space, leaves other words alone, and costs a prompt no time."""

import re
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pangu.serve.inference.messages import Job, TextureJob
from pangu.serve.inference.prompt_filter import DenyList, plain
from tests import subtests
from tests.serve.local import serving

WORDS = ("gun", "secret weapon", "炸弹")
SIGNS = st.text(st.sampled_from("abAB1_ .-é\u0301ßSıİﬁ炸弹ｇ\n"), max_size=6)


def one_after_the_other(job: Job, words: Sequence[str]) -> str | None:
    """What the list means, word by word."""
    texts = [plain(text) for text in (job.prompt, job.texture.prompt) if text]
    for word in words:
        asked = plain(word)
        pattern = rf"(?<!\w){re.escape(asked)}(?!\w)" if asked.isascii() else re.escape(asked)
        if asked and any(re.search(pattern, text) for text in texts):
            return word
    return None


@given(st.lists(SIGNS, max_size=6), st.lists(SIGNS, min_size=1, max_size=5), SIGNS | st.none())
def test_the_indexed_list_finds_what_a_search_word_by_word_finds(
    words: list[str], parts: list[str], texture: str | None
) -> None:
    for prompt in ("".join(parts), " ".join([*parts, *words[:1]])):
        job = Job(prompt, 0, texture=TextureJob(prompt=texture))
        assert DenyList(words).first_in(job) == one_after_the_other(job, words)


def test_ten_thousand_words_cost_the_longest_prompt_a_few_milliseconds() -> None:
    words = [f"{'abcdefghij'[index % 10]}word number {index:05d}" for index in range(9_000)]
    words += [f"坏词{index}" for index in range(1_000)]
    denied = DenyList(words)
    for prompt in ("bword number 1, " * 250, "坏词" * 2000, "a fox in the snow " * 220):
        clock = time.process_time()
        assert denied.first_in(Job(prompt[:4000], 0)) is None
        assert time.process_time() - clock < 0.05  # one after the other: 0.25 s and more
    assert denied.first_in(Job("x " * 1900 + "BWORD  number 00001", 0)) == "bword number 00001"


@subtests.parametrize("prompt", ["a gun", "A GUN!", "ｇｕｎ", "gún", "a secret\n weapon", "画一个炸弹吧", "gun"])
def test_a_denied_word_is_found(prompt: str) -> None:
    assert DenyList(WORDS).first_in(Job(prompt, 0)) is not None
    assert DenyList(WORDS).first_in(Job("x", 0, texture=TextureJob(prompt=prompt))) is not None


@subtests.parametrize("prompt", ["a burgundy gown", "begun", "a secret", "炸鸡", ""])
def test_other_words_are_left_alone(prompt: str) -> None:
    assert DenyList(WORDS).first_in(Job(prompt, 0)) is None
    assert DenyList(()).first_in(Job("a gun", 0)) is None


def test_a_denied_prompt_is_refused_as_openai_does_it(pair_folder) -> None:
    with serving(pair_folder, denied_words=WORDS) as server:
        for more in ({}, {"stream": True}):
            answer = server.draw("one GUN", **more)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("moderation_blocked", "prompt")
            assert "gun" not in error["message"].lower()
        assert server.draw("a fox", seed=1).status_code == 200
