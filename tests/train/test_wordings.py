"""How often captions are worded anew: as the shares say, by the sample alone, and at no cost to what else is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pangu.config import Optimization
from pangu.data.captions import EMPTY, Caption
from pangu.data.rows.in_memory import EncodedRows
from pangu.data.rows.training_rows import Wording
from pangu.diffusion.interval import TimeInterval
from pangu.train.randomness import Batch, draw_batch
from tests import subtests
from tests.train.rows import plain_timesteps, random_rows

INTERVAL = TimeInterval(500, 1000)
SHARES = {"template_share": 0.3, "keyword_share": 0.4, "long_caption_share": 0.2}


@dataclass(frozen=True)
class Talkative(EncodedRows):
    """Rows of which every third has no English keyword and every second both lengths in English, and which note what they were
    asked to show."""

    asked: list[Caption] = field(default_factory=list)

    def wordings(self, rows: Sequence[int]) -> list[Wording]:
        return [Wording(False, 1, (row % 3 > 0, True), (True, False), (row % 2 > 0, False)) for row in rows]

    def captions(self, rows: Sequence[int], captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        self.asked.extend(captions)
        return super().captions(rows, captions)


def talkative() -> Talkative:
    return Talkative(**vars(random_rows(12, side=6)))


def drawn(
    rows: EncodedRows, step: int, seed: int = 0, first: int = 0, count: int = 12, **shares: float | None
) -> Batch:
    """The rows at the places `first` ... of a batch, each at the place of its number."""
    optimization, windows = Optimization(**shares), {0: (4, 4)}
    indices = range(first, first + count)
    return draw_batch(rows, indices, first, step, seed, plain_timesteps(rows, INTERVAL), optimization, windows)


@subtests.parametrize("zh_share", [0.0, 0.5])
def test_shares_are_met_by_what_has_a_keyword_or_a_template(zh_share: float) -> None:
    rows, steps = talkative(), 200
    for step in range(steps):
        drawn(rows, step, zh_share=zh_share, **SHARES)
    shown = list(zip(rows.asked, list(range(12)) * steps, strict=True))
    dropped = [caption for caption, _ in shown if caption.variant == EMPTY]
    assert dropped and all(caption.keyword is caption.template is None for caption in dropped)
    said = [(caption, row) for caption, row in shown if caption.variant != EMPTY]
    lacking = [caption for caption, row in said if caption.variant == 0 and row % 3 == 0]
    chinese = [caption for caption, _ in said if caption.variant == 1]
    assert all(caption.keyword is None for caption in lacking) and all(one.template is None for one in chinese)
    alike = [caption for caption, row in said if caption.variant == 1 or row % 2 == 0]
    assert alike and all(caption.short is caption.long is None for caption in alike)
    for name, share, having in (
        ("keyword", 0.4, [caption for caption, row in said if caption.variant == 1 or row % 3]),
        ("template", 0.3, [caption for caption, _ in said if caption.variant == 0]),
        ("long", 0.2, both := [caption for caption, row in said if caption.variant == 0 and row % 2]),
        ("short", 0.8, both),
    ):
        chances = [getattr(one, name) for one in having if getattr(one, name) is not None]
        assert abs(len(chances) - share * len(having)) < 5 * sqrt(share * (1 - share) * len(having))
        assert 0 <= min(chances) < 0.05 and 0.95 < max(chances) < 1
        assert abs(sum(chances) / len(chances) - 0.5) < 5 / sqrt(12 * len(chances))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 12))
def test_wordings_do_not_depend_on_how_many_workers_share_a_batch(seed: int, step: int, cut: int) -> None:
    alone, shared = talkative(), talkative()
    drawn(alone, step, seed, **SHARES)
    for first, count in ((cut, 12 - cut), (0, cut)):
        if count:
            drawn(shared, step, seed, first, count, **SHARES)
    assert shared.asked[12 - cut :] + shared.asked[: 12 - cut] == alone.asked


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_wordings_change_nothing_else_of_a_sample(seed: int, step: int) -> None:
    plain, other = drawn(random_rows(12, side=6), step, seed), drawn(talkative(), step, seed, **SHARES)
    for name in ("latents_bchw", "noise_bchw", "timestep_b"):
        assert torch.equal(getattr(plain, name), getattr(other, name))
    quiet = talkative()
    same = drawn(quiet, step, seed, template_share=0, keyword_share=0, long_caption_share=None)
    assert torch.equal(same.tokens_bsc, plain.tokens_bsc)
    assert all(caption.keyword is caption.template is caption.short is caption.long is None for caption in quiet.asked)
