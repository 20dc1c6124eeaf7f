"""What may happen to a machine while a pair is trained or served, and what it costs."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pangu.data.example.origin import Origin
from tests.nodes.machines import HEAD, Machines, wait_until
from tests.nodes.network import HUB, INSIDE
from tests.nodes.work import DRAWINGS, PATIENCE_S, Training, longest_silence, stage, write_card

WORKER = "RayTrainWorker"
BRIEF_S, LONG_S = 10.0, 100.0
"""Seconds without a cable: the one shorter, the other longer than it takes Ray to give a node up."""
STEPS_AFTER = 20


def disturbed(machines: Machines, name: str, disturb: Callable[[str], None], replaces: bool) -> dict[str, Any]:
    """A training on two machines while `disturb(machine of a worker that is not the head)` happens.

    replaces: whether other workers must go on with it; until then one that nobody has told may train alone.
    steps_repeated: those after the last whole checkpoint. silence_s: from the last step before to the first new one.
    written_at_once: lines that two wrote without knowing of each other, of which there must be none.
    """
    training = Training(machines, name)
    try:
        training.wait_for(25)
        where = machines.where(WORKER)
        victim = next(machine for machine in [*where, "one", "two"] if machine != HEAD)
        group, since_ms = training.group, int(time.time() * 1000)
        disturb(victim)
        if replaces:
            wait_until("other workers", lambda: training.group not in ("", group), PATIENCE_S)
        reached, kept = training.step, training.checkpoint
        training.wait_for(reached + STEPS_AFTER)
        restarted = training.group != group
        assert not training.written_at_once, f"{training.written_at_once} lines were written by two at once"
        return {
            "workers_on": where,
            "victim": victim,
            "at_step": reached,
            "steps_repeated": reached - kept if restarted else 0,
            "silence_s": round(longest_silence(training.lines, since_ms), 1),
            "restarted": restarted,
            "workers_then_on": machines.where(WORKER),
        }
    finally:
        training.stop()


def node_killed(machines: Machines) -> dict[str, Any]:
    """A machine loses its power; it comes back when the training already goes on."""
    victims = []

    def disturb(victim: str) -> None:
        machines.kill(victim)
        victims.append(victim)

    try:
        return disturbed(machines, "killed", disturb, replaces=True)
    finally:
        for victim in victims:
            machines.start(victim)


def cable(machines: Machines, name: str, seconds: float) -> dict[str, Any]:
    """A machine is cut off for so long."""

    def disturb(victim: str) -> None:
        machines.network.cut(victim)
        try:
            time.sleep(seconds)
        finally:
            machines.network.heal(victim)

    return disturbed(machines, name, disturb, replaces=seconds == LONG_S)


def head_restarted(machines: Machines) -> dict[str, Any]:
    """The head dies with the job server, the driver and all that Ray knows, and is started again."""

    def disturb(_: str) -> None:
        machines.kill(HEAD)
        machines.start(HEAD)

    return disturbed(machines, "headless", disturb, replaces=True)


def ingest_disturbed(machines: Machines) -> dict[str, Any]:
    """A machine dies while an ingest runs on all three; every row is accounted for all the same."""
    card, origin = write_card(machines, "disturbed"), Origin(4 * DRAWINGS, host=HUB)
    raws, found, gone = machines.folder / "home" / "datasets" / "disturbed" / "raw", dict[str, Any](), list[str]()

    def lose() -> None:
        wait_until("the first shard", lambda: bool(list(raws.glob("*/groups/*/shards/*_stats.json"))), 300)
        gone.append(next(name for name in machines.where("fetch") if name != HEAD))
        machines.kill(gone[0])

    thread = threading.Thread(target=lose, daemon=True)
    origin.start()
    try:
        origin.write_table(machines.folder / "disturbed.parquet")
        thread.start()
        outcome, found = stage(machines, "ingest", "ingest", card, "--on-ray")
        thread.join()
    finally:
        origin.close()
        for name in gone:
            machines.start(name)
    listed = len(origin.rows())
    accounted = outcome["ok"] + sum(outcome["failed"].values())
    assert outcome["listed"] == accounted == listed, f"{listed} listed, {accounted} accounted for"
    assert outcome["ok"] >= 4 * DRAWINGS, outcome
    return found | {"listed": listed, "ok": outcome["ok"], "failed": outcome["failed"], "victim": gone[0]}


def served(machines: Machines) -> dict[str, Any]:
    """A pair whose pools lie on several machines answers; one of these is killed, then the head, while requests go on."""
    prober = in_head(machines, "probe", str(machines.folder / "pair"), "declare")
    out, _ = prober.communicate(timeout=400)
    found: dict[str, Any] = {"declared": json.loads(out.splitlines()[-1])}
    pools = {
        machine: sorted(t for t in machines.titles(machine) if "ServeReplica" in t)
        for machine in machines.network.addresses
    }
    found["pools"] = pools
    victim = next(machine for machine, titles in pools.items() if machine != HEAD and titles)
    prober = in_head(machines, "probe", str(machines.folder / "pair"), "requests", "240", "40")
    time.sleep(10)
    machines.kill(victim)
    out, _ = prober.communicate(timeout=400)
    machines.start(victim)
    found["node_killed"] = json.loads(out.splitlines()[-1]) | {"victim": victim}
    began = time.monotonic()
    machines.kill(HEAD)
    machines.start(HEAD)
    prober = in_head(machines, "probe", str(machines.folder / "pair"), "declare")
    out, _ = prober.communicate(timeout=500)
    found["head_restarted"] = {"seconds_until_it_draws": round(time.monotonic() - began, 1)}
    return found


def in_head(machines: Machines, *arguments: str) -> "subprocess.Popen[str]":
    """`python -m tests.nodes.ARGUMENTS` on the head."""
    command = machines.network.inside(HEAD, sys.executable, "-m", f"tests.nodes.{arguments[0]}", *arguments[1:])
    log = (machines.folder / "logs" / "probe.log").open("a")
    environment = machines.environment | {INSIDE: "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
