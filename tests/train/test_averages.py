"""Running means: on the host the same bits as beside the weights, taken by a thread; and what is taken in less often."""

import threading

import pytest
import torch
from torch import nn

from pangu.config import Execution
from pangu.train.ema import Ema
from pangu.train.host_copies import HostCopies
from tests import subtests

checks = subtests.Checks()

HOST = Execution(ema_device="host")


def drift(execution: Execution, steps: int, decay: float = 0.9) -> tuple[list[nn.Parameter], Ema]:
    """Means of weights that grow by 1 a step."""
    parameters = [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))]
    averages = Ema(parameters, (decay, 0.5), execution)
    for _ in range(steps):
        averages.before_change()
        with torch.no_grad():
            for parameter in parameters:
                parameter += 1
        averages.step()
    return parameters, averages


@checks
def means_on_the_host_are_the_same_bits() -> None:
    (_, beside), (_, on_host) = drift(Execution(), 50), drift(HOST, 50)
    ours, theirs = on_host.tensors(), beside.tensors()
    assert ours.keys() == theirs.keys() and on_host.facts() == beside.facts()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@checks
def applied_waits_for_the_thread_and_gives_the_weights_back() -> None:
    parameters, averages = drift(HOST, 10)
    with averages.applied(1):
        assert torch.equal(parameters[0], averages.tensors()["1.0"])
        assert 8 < float(parameters[0][0, 0].detach()) < 10
    assert float(parameters[0][0, 0].detach()) == 10


@checks
def only_the_first_worker_holds_means_on_the_host() -> None:
    parameters = [nn.Parameter(torch.zeros(3))]
    first, second = (Ema(parameters, (0.9,), HOST, rank) for rank in (0, 1))
    second.step()
    second.before_change()
    second.restore(first.tensors(), first.facts())
    assert (len(first.tensors()), len(second.tensors()), len(Ema(parameters, (0.9,), rank=1).tensors())) == (
        1,
        0,
        1,
    )


@subtests.parametrize("every", [1, 4])
def test_a_mean_taken_less_often_keeps_its_horizon(every: int) -> None:
    """Of weights that grow by 1 a step a mean of decay d lags by 1 / (1 - d) - 1; every k steps, by k d^k / (1 - d^k)."""
    _, averages = drift(Execution(ema_every=every), 400)
    lag = 400 - float(averages.tensors()["0.0"][0, 0])
    raised = 0.9**every
    assert lag == pytest.approx(every * raised / (1 - raised), abs=0.02)


def test_copies_are_of_the_moment_and_the_next_ones_wait_for_the_work() -> None:
    weight, held, seen = torch.zeros(4), threading.Event(), []
    copies = HostCopies([weight])
    weight += 1
    copies.hand_over(lambda: (held.wait(), seen.append(float(copies.tensors[0][0]))))  # type: ignore[arg-type, return-value]
    weight += 1
    later = threading.Thread(target=copies.hand_over, args=(lambda: seen.append(float(copies.tensors[0][0])),))
    later.start()
    later.join(0.1)
    assert later.is_alive() and not seen
    held.set()
    later.join()
    copies.settle()
    assert seen == [1.0, 2.0]


@checks
def what_the_thread_raises_is_raised_at_the_next_step() -> None:
    copies = HostCopies([torch.zeros(1)])
    copies.hand_over(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        copies.hand_over(lambda: None)


test_averages = checks.test()
