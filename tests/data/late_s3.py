"""`python tests/data/late_s3.py PORT SECONDS`: an S3 server whose lists learn of an object so long after it was written.

Reading an object by its name, and writing one only if it is not there, are exact, as they are of every store.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

from moto.s3.models import S3Backend
from moto.server import main

KNOWN_AFTER_S = float(sys.argv[2])


def late(listed: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the server's that lists objects, without those that are younger."""

    def list_late(*arguments: Any, **named: Any) -> Any:
        keys, *rest = listed(*arguments, **named)
        return ([key for key in keys if not is_young(key)], *rest)

    return list_late


def is_young(key: Any) -> bool:
    """Whether an object (folders are text) was written a moment ago; the server keeps times without a zone, in UTC."""
    return (
        hasattr(key, "last_modified")
        and time.time() - key.last_modified.replace(tzinfo=UTC).timestamp() < KNOWN_AFTER_S
    )


if __name__ == "__main__":
    S3Backend.list_objects = late(S3Backend.list_objects)  # type: ignore[method-assign]
    S3Backend.list_objects_v2 = late(S3Backend.list_objects_v2)  # type: ignore[method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
