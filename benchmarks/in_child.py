"""Work in a process of its own, so that its peak of memory is its own."""

import json
import os
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work returns, as JSON carries it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    text = b"".join(iter(lambda: os.read(read, 65_536), b""))
    os.waitpid(child, 0)
    return dict(json.loads(text))
