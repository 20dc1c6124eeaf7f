"""The ingress of the Serve application: accepts what it can finish, and sends it through structure, texture, decoder.

The responses of one pool are passed on to the next unread, so a trajectory goes from replica to replica by reference.
"""

import asyncio
import time
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from pangu.errors import UserError
from pangu.serve.api import build_api
from pangu.serve.handoff import Job, Pictures, Release
from pangu.serve.listening import listen_on_node_address
from pangu.serve.metrics import Metrics
from pangu.serve.schema import ApiError
from pangu.serve.settings import ServeSettings

POLL_TIMEOUT_S = 5.0


class Gateway:
    """Draws with three pools; `build_api` puts HTTP in front."""

    def __init__(
        self,
        settings: dict[str, Any],
        structure: DeploymentHandle,
        texture: DeploymentHandle,
        decoder: DeploymentHandle,
    ) -> None:
        listen_on_node_address()
        self._settings = ServeSettings.model_validate(settings)
        self._pools = {"structure": structure, "texture": texture, "decoder": decoder}
        self._in_flight = 0
        self._metrics = Metrics()

    def __serve_build_asgi_app__(self) -> Any:
        """Ray Serve asks for the ASGI application once the replica exists."""
        return build_api(self, self._metrics)

    async def draw(self, job: Job) -> Pictures:
        """One request from text to image files, within the deadline.

        Raises:
            ApiError: 400 not drawable, 429 too many requests, 503 a pool is not available, 504 deadline.
        """
        if self._in_flight >= self._settings.max_in_flight:
            raise self._busy()
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        clock = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                pictures = await self._through_the_pools(job)
        except TimeoutError:
            message = f"The image was not ready within {self._settings.timeout_s:g} s; ask for fewer steps or images."
            raise ApiError(504, message, kind="server_error", code="timeout") from None
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
        return replace(pictures, seconds=pictures.seconds | {"total": time.perf_counter() - clock})

    async def _through_the_pools(self, job: Job) -> Pictures:
        begun = self._pools["structure"].begin.remote(job)
        finished = self._pools["texture"].finish.remote(begun)
        developed = self._pools["decoder"].develop.remote(finished)
        try:
            return await developed
        except asyncio.CancelledError:
            for response in (begun, finished, developed):
                response.cancel()
            raise
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ApiError:
        """What a failure in a pool means for the client. Its details are in the log of that pool."""
        cause = root_cause(error)
        if isinstance(cause, UserError):
            return ApiError(400, str(cause), param=getattr(cause, "param", None), code="invalid_value")
        if isinstance(cause, BackPressureError):
            return self._busy()
        if isinstance(cause, (DeploymentUnavailableError, ReplicaUnavailableError, RequestCancelledError)):
            message = "A part of the model is not available at the moment; try again."
            return ApiError(
                503, message, kind="server_error", code="unavailable", retry_after_s=self._settings.retry_after_s
            )
        return ApiError(500, "The server failed on this request.", kind="server_error", code="internal_error")

    def _busy(self) -> ApiError:
        return ApiError(
            429,
            "Too many requests are being drawn; try again later.",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            retry_after_s=self._settings.retry_after_s,
        )

    async def releases(self) -> dict[str, Release | None]:
        """What each pool draws with now; None for a pool that does not answer."""
        answers = await asyncio.gather(*(_current(handle) for handle in self._pools.values()))
        return dict(zip(self._pools, answers, strict=True))


async def _current(handle: DeploymentHandle) -> Release | None:
    response = handle.current.remote()
    try:
        return await asyncio.wait_for(_answer(response), POLL_TIMEOUT_S)
    except Exception:
        return None


async def _answer(response: Any) -> Any:
    return await response


def root_cause(error: BaseException) -> BaseException:
    """What a replica raised, below the wrappers that Ray adds on the way."""
    while isinstance(cause := getattr(error, "cause", None), BaseException) and cause is not error:
        error = cause
    return error
