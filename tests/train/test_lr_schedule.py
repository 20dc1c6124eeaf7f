"""The learning rate: where it begins, where it peaks, where it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import Optimization
from pangu.train.lr_schedule import learning_rate
from tests import subtests

checks = subtests.Checks()

SETTINGS = st.builds(
    Optimization,
    lr_peak=st.just(1e-3),
    lr_final=st.just(1e-5),
    lr_schedule=st.sampled_from(["cosine", "linear"]),
    lr_decay_share=st.floats(0.1, 1),
    warmup_steps=st.integers(0, 20),
)


@checks
@given(settings=SETTINGS, total=st.integers(40, 500))
def it_rises_to_the_peak_and_never_rises_again(settings: Optimization, total: int) -> None:
    rates = [learning_rate(step, total, settings) for step in range(total)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(settings.lr_peak)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(settings.lr_final)


@checks
@given(share=st.floats(0.1, 0.9))
def the_plateau_lasts_until_the_last_share_of_the_steps(share: float) -> None:
    settings = Optimization(lr_decay_share=share, warmup_steps=0)
    begin = round((1 - share) * 1000)
    assert learning_rate(begin - 1, 1000, settings) == settings.lr_peak
    assert learning_rate(begin + 2, 1000, settings) < settings.lr_peak


@checks
def a_constant_rate_stays() -> None:
    settings = Optimization(lr_schedule="constant", warmup_steps=3)
    assert {learning_rate(step, 100, settings) for step in range(3, 100)} == {settings.lr_peak}


test_lr_schedule = checks.test()
