"""Ports are chosen minutes before some parts bind them; nothing else may be lent one meanwhile."""

import socket

from pangu.stack.model import LOOPBACK
from pangu.stack.ports import CUSTOMARY, OTHERS, choose_ports, free_port


def test_no_chosen_port_is_one_that_the_kernel_lends_to_those_who_connect() -> None:
    chosen = choose_ports(customary=False)
    assert len(set(chosen.values())) == len(CUSTOMARY)
    assert set(chosen.values()) <= set(OTHERS)
    with socket.create_server((LOOPBACK, 0)) as lent:
        assert lent.getsockname()[1] not in OTHERS


def test_a_customary_port_that_is_taken_is_replaced() -> None:
    taken = free_port()
    with socket.create_server((LOOPBACK, taken)):
        chosen = choose_ports(wanted={"one": taken, "two": taken})
    assert taken not in chosen.values()
    assert choose_ports(wanted={"one": taken}) == {"one": taken}
