"""Which of the scheduled runs that were missed are made up for."""

from hypothesis import given
from hypothesis import strategies as st

from pangu.stack.flow_runs import superseded

RUN = st.tuples(st.sampled_from("abc"), st.datetimes().map(lambda moment: moment.isoformat()))


@given(st.lists(RUN, max_size=20))
def test_the_newest_run_of_each_deployment_is_kept_and_no_other(found: list[tuple[str, str]]) -> None:
    runs = [(str(number), deployment, when) for number, (deployment, when) in enumerate(found)]
    gone = set(superseded(runs))
    kept = [run for run in runs if run[0] not in gone]
    assert sorted(deployment for _, deployment, _ in kept) == sorted({deployment for _, deployment, _ in runs})
    for _, deployment, when in kept:
        assert when == max(other for _, of, other in runs if of == deployment)
