"""A retraining that is asked for from the terminal: begun once, left running by Ctrl-C, joined, and cancelled."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.jobs import MARK as COMMAND
from pangu.retrain.asked import settings_of
from pangu.retrain.button import Button
from pangu.retrain.press import DEPLOYMENT, cancel, last_of, pressed, under_way
from pangu.stack import Stack
from pangu.stack.processes import marked

pytestmark = pytest.mark.slow


def test_who_asks_twice_gets_one_run_which_ctrl_c_leaves_and_cancel_ends(
    stack: Stack, card_that_takes_forever: Path
) -> None:
    card = str(card_that_takes_forever)
    settings, button = settings_of(card, "tiny", None), Button(stack, DEPLOYMENT)
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: pressed(stack, settings, card), range(4)))
    ((run_id,), joined) = {one for one, _ in asked}, [was for _, was in asked]
    assert sorted(joined) == [False, True, True, True], "one begins it, all others join"
    with pytest.raises(
        UserError, match=r"with other settings already; watch it with `pangu retrain .*--watch`, cancel"
    ):
        pressed(stack, settings | {"changes": {"structure_steps": 3}}, card)
    with pytest.raises(
        UserError, match=r"^The stack runs older code.* takes no colour; restart it: `pangu down; pangu up`"
    ):
        button.press(settings | {"colour": "red"})

    command = [sys.executable, "-m", "pangu", "retrain", card, "--watch"]
    shown = subprocess.Popen(command, env=os.environ | stack.environment(), stderr=subprocess.PIPE, text=True)
    assert shown.stderr is not None
    for line in shown.stderr:
        if "ingest" in line:
            break
    shown.send_signal(signal.SIGINT)
    rest = shown.stderr.read()
    assert shown.wait(60) == 130 and f"the retraining goes on; watch it with `pangu retrain {card} --watch`" in rest
    assert last_of(button, settings["card"], card).run_id == run_id

    assert cancel(button, settings["card"], card) == run_id
    assert under_way(button, settings["card"]) is None and last_of(button, settings["card"], card).state == "CANCELLED"
    last = time.monotonic() + 60
    while marked(COMMAND, run_id, prefix=True):
        assert time.monotonic() < last, "its command still runs"
        time.sleep(0.5)
    with pytest.raises(UserError, match=r"No retraining of .* is under way; begin one with `pangu retrain "):
        cancel(button, settings["card"], card)
