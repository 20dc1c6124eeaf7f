"""The order in which replicas are asked for a layout: the one whose cache may hold it first, unless others are much less busy.

Requests of one prompt and seed prefer one replica, by rendezvous hashing: a replica that comes or goes moves only the requests
that are its own. What is drawn does not depend on it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pangu.serve.inference.messages import Job

TOLERANCE = 2
"""Requests by which the preferred replica may be busier than the least busy one."""


def affinity_key(arguments: Sequence[Any]) -> str | None:
    """What equal layouts have in common, of the arguments of a call to the structure pool; None if it draws nothing."""
    job = next((each for each in arguments if isinstance(each, Job)), None)
    return None if job is None else f"{job.seed} {job.prompt}"


def in_order(busy: Mapping[str, int], layout: str | None) -> list[str]:
    """Names of replicas, the first choice first. busy: name -> requests that it has."""
    least_busy = sorted(busy, key=lambda name: (busy[name], name))
    if layout is None or not busy:
        return least_busy
    preferred = max(busy, key=lambda name: _weight(name, layout))
    if busy[preferred] > busy[least_busy[0]] + TOLERANCE:
        return least_busy
    return [preferred, *(name for name in least_busy if name != preferred)]


def _weight(name: str, layout: str) -> bytes:
    return hashlib.sha256(f"{name} {layout}".encode("utf-8", "replace")).digest()
