"""`pangu metrics`: flows and trainings for Prometheus."""

import os
import signal
import threading
from typing import Annotated

import typer

from pangu.errors import UserError
from pangu.storage import Home


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(metrics)


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 9464,
) -> None:
    """Serve the figures of flows and trainings in Prometheus' format, until SIGTERM or Ctrl-C."""
    from prometheus_client import start_http_server

    from pangu.monitoring.exporter import registry_of

    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UserError("PREFECT_API_URL is not set; start the stack with `pangu up`, or name a Prefect server.")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server, thread = start_http_server(port, host, registry_of(Home.from_environment(), api))
    except OSError as error:
        raise UserError(
            f"Port {port} of {host} can not be listened on ({error.strerror}); choose another --port."
        ) from error
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    stop.wait()
    server.shutdown()
    thread.join()
