"""Talking to Ray Serve over the HTTP API of Ray's dashboard, in the declarative form that RayService uses too.

Nothing here joins the cluster: a driver process would need a route to every node, and would replace signal handlers.
"""

import os
from typing import TYPE_CHECKING, Any

from pangu.errors import UserError
from pangu.ray_token import headers
from pangu.retrying import retrying
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.settings import APPLICATION, CHOSEN_LAYOUT, IMPORT_PATH, PARTS_VERSION, Layout, ServeSettings

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

HOST = "127.0.0.1"
KEEP_ALIVE_S = 15
"""Serve's proxy has no bound on connections, so those that ask nothing end soon."""
GATEWAY = "gateway"


def connect() -> "ServeSubmissionClient":
    """A client of the dashboard at `$RAY_API_SERVER_ADDRESS`; Ray's own variables give the token.

    Raises:
        UserError: nobody answers there, or the token is wrong.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.exceptions import AuthenticationError

    address = os.environ.get("RAY_API_SERVER_ADDRESS", f"http://{HOST}:8265")
    try:
        return retrying(lambda: ServeSubmissionClient(address, headers=headers()), (ConnectionError,))
    except AuthenticationError as error:
        raise UserError(
            f"Ray at {address} refused the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH."
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"No Ray dashboard answers at {address}; `pangu up` starts Ray and prints its address."
        ) from error


def declare(
    client: "ServeSubmissionClient", routing: ReleaseRouting, port: int, settings: ServeSettings, layout: Layout
) -> None:
    """Tell Serve what to run; returns before it runs.

    With the settings and layout that it runs with only the `user_config` changes, so Serve keeps the replicas and reconfigures
    them.

    Raises:
        UserError: Serve already listens on another port, which it can not change.
    """
    details = client.get_serve_details()
    actual = (details.get("http_options") or {}).get("port")
    if details.get("controller_info", {}).get("actor_id") and actual != port:
        raise UserError(f"Ray Serve already runs on port {actual}, not {port}; set PANGU_SERVE_PORT to {actual}.")
    client.deploy_applications(declaration(routing, port, settings, layout))


def running(
    client: "ServeSubmissionClient",
) -> tuple[ServeSettings | None, ReleaseRouting | None, Layout | None]:
    """What the running application was declared with.

    Raises:
        UserError: it runs code that this code can not replace.
    """
    details = client.get_serve_details()
    check_parts(details)
    return running_settings(details), running_lineup(details), _arguments(details).get(CHOSEN_LAYOUT)


def check_parts(details: dict[str, Any]) -> None:
    """Raises UserError if the running application was declared by code whose parts can not work with those of this code.

    Serve replaces its replicas one after the other, and for that time a gateway has pools of both; seen with code of which a
    module had another name: from then on the gateway answered nobody.
    """
    config = _config(details)
    version = _arguments(details).get("parts_version", 1)
    if config and version != PARTS_VERSION:
        which = "older" if version < PARTS_VERSION else "newer"
        raise UserError(
            f"The server runs {which} code than this, and the two can not replace each other while it answers; restart it by "
            "`pangu down` and `pangu up`, then deploy again."
        )


def running_settings(details: dict[str, Any]) -> ServeSettings | None:
    """What the running application was declared with; None if there is none, or an older one that differs in kind."""
    try:
        return ServeSettings.of_arguments(_config(details)["args"])
    except (KeyError, ValueError):
        return None


def running_lineup(details: dict[str, Any]) -> ReleaseRouting | None:
    """The releases of the running application; None if there is none."""
    try:
        gateway = next(each for each in _config(details)["deployments"] if each["name"] == GATEWAY)
        return ReleaseRouting.model_validate(gateway["user_config"])
    except (KeyError, ValueError, StopIteration, TypeError):
        return None


def _config(details: dict[str, Any]) -> dict[str, Any]:
    return details.get("applications", {}).get(APPLICATION, {}).get("deployed_app_config") or {}


def _arguments(details: dict[str, Any]) -> dict[str, Any]:
    return _config(details).get("args") or {}


def declaration(routing: ReleaseRouting, port: int, settings: ServeSettings, layout: Layout) -> dict[str, Any]:
    """The Serve config file of this application, as a dictionary."""
    config, parts = routing.model_dump(mode="json"), settings.parts(layout, routing.between)
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": settings.host,
            "port": port,
            "request_timeout_s": settings.timeout_s + 30,
            "keep_alive_timeout_s": KEEP_ALIVE_S,
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": settings.arguments(layout, routing.between),
                "deployments": [{"name": name, "user_config": config} for name in (*parts, GATEWAY)],
            }
        ],
    }


def application(client: "ServeSubmissionClient") -> dict[str, Any]:
    """What Serve says of the application at the moment; empty if there is none."""
    found: dict[str, Any] = client.get_serve_details().get("applications", {}).get(APPLICATION, {})
    return found


def failure(application: dict[str, Any], before: float) -> str | None:
    """Why a declaration failed that came after the one of the stamp `before`; None while it may still succeed."""
    if application.get("status") != "DEPLOY_FAILED" or stamp_of(application) == before:
        return None
    return str(application.get("message") or "see Ray's dashboard")


def settled(application: dict[str, Any], before: float) -> bool:
    """Whether every replica runs as declared after the stamp `before`; replicas that come and go with the load do not count."""
    return application.get("status") == "RUNNING" and stamp_of(application) != before


def stamp_of(application: dict[str, Any]) -> float:
    """What tells a declaration from the one before: when Serve took it, by its own clock; 0 if there is none."""
    return float(application.get("last_deployed_time_s") or 0)
