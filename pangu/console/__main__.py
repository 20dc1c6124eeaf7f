"""`python -m pangu.console PORT`: the pages of the home that `$PANGU_HOME` names, on loopback, until SIGTERM."""

import sys

import uvicorn

from pangu.console.console_app import build_console
from pangu.stack.model import LOOPBACK
from pangu.storage import Home


def main(port: str) -> None:
    """Answer on a port of loopback. What has read datasets keeps their libraries in memory, some 100 MB."""
    app = build_console(Home.from_environment())
    uvicorn.run(app, host=LOOPBACK, port=int(port), log_level="warning", access_log=False, server_header=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
