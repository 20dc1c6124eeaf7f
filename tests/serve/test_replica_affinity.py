"""Requests of one layout go to one replica while it is not much busier than the others."""

from hypothesis import given
from hypothesis import strategies as st

from pangu.serve.inference.messages import Job
from pangu.serve.replica_affinity import TOLERANCE, affinity_key, in_order

BUSY = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 20), min_size=1, max_size=6)


@given(BUSY, st.text() | st.none())
def test_every_replica_is_offered_once_and_the_first_is_never_much_busier_than_another(
    busy: dict[str, int], layout: str | None
) -> None:
    order = in_order(busy, layout)
    assert sorted(order) == sorted(busy)
    assert busy[order[0]] <= min(busy.values()) + (TOLERANCE if layout is not None else 0)


@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=6), st.text())
def test_a_replica_that_leaves_moves_only_its_own_layouts(names: set[str], layout: str) -> None:
    before = in_order(dict.fromkeys(names, 0), layout)[0]
    for gone in names - {before}:
        assert in_order(dict.fromkeys(names - {gone}, 0), layout)[0] == before


def test_layouts_are_shared_out_evenly() -> None:
    idle = {"a": 0, "b": 0}
    firsts = [in_order(idle, f"{seed} a fox")[0] for seed in range(200)]
    assert 70 < firsts.count("a") < 130


def test_what_differs_only_below_the_boundary_has_the_same_layout() -> None:
    whole = Job(prompt="a fox", seed=3)
    assert affinity_key(["release", whole]) == affinity_key(
        ["release", Job(prompt="a fox", seed=3, output_format="webp")]
    )
    assert affinity_key(["release", whole]) != affinity_key(["release", Job(prompt="a fox", seed=4)])
    assert affinity_key([]) is None
