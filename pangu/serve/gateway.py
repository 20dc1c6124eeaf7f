"""The ingress of the Serve application: HTTP in front, and a link to each pool behind.

A call's response is passed on to the next pool unread, so a trajectory goes from replica to replica by reference.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from pangu.serve.api import build_api
from pangu.serve.api.keys import KeyRing
from pangu.serve.error_answers import PoolBusy, PoolUnavailable, WorkCancelled
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.pool_path import PairPath, PoolPath
from pangu.serve.listening import listen_on_node_address
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings


class Gateway:
    """An engine behind HTTP: over the pools of the handles, or with all of them in this process where there are none."""

    def __init__(self, settings: dict[str, Any], pools: Mapping[str, DeploymentHandle]) -> None:
        listen_on_node_address()
        self._settings = ServeSettings.model_validate(settings)
        self._metrics = Metrics()
        self._studio: RequestEngine
        if not pools:
            # With torch and diffusers, which a gateway before one replica has no use for.
            from pangu.serve.inference.local import LocalEngine

            self._studio = LocalEngine(self._settings, self._metrics)
            return
        if [*pools] != ["pair"]:
            # Partial images come through here as tensors; the first one must not keep everybody waiting for an import.
            import torch  # noqa: F401

        links = {name: RayLink(handle) for name, handle in pools.items()}
        path = PairPath if "pair" in pools else PoolPath
        self._studio = RequestEngine(links, self._settings, self._metrics, path)

    def __serve_build_asgi_app__(self) -> Any:
        """Ray Serve asks for the ASGI application once the replica exists."""
        return build_api(self._studio, self._metrics, KeyRing.of(self._settings), self._settings)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with every new `user_config`: new requests get the releases of this routing."""
        await self._studio.take(ReleaseRouting.model_validate(user_config))


class RayLink:
    """A pool in other processes, behind a deployment handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    def call(self, method: str, *arguments: Any) -> "RayCall":
        given = [each.response if isinstance(each, RayCall) else each for each in arguments]
        return RayCall(getattr(self._handle, method).remote(*given))

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        source = getattr(self._streaming, method).remote(*arguments)
        over = False
        try:
            async for message in source:
                yield message
            over = True
        except Exception as error:
            over = True
            raise translated(error) from error
        finally:
            if not over:
                source.cancel()


class RayCall:
    """A response that has not come yet."""

    def __init__(self, response: Any) -> None:
        self.response = response

    def cancel(self) -> None:
        self.response.cancel()

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            return await self.response
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise translated(error) from error


def translated(error: BaseException) -> BaseException:
    """What a replica raised, below the wrappers that Ray adds on the way, and Ray's own refusals in our words."""
    while isinstance(cause := getattr(error, "cause", None), BaseException) and cause is not error:
        error = cause
    if isinstance(error, BackPressureError):
        return PoolBusy()
    # Serve cancels the calls of a request whose client left, before the gateway hears of it.
    if isinstance(error, TaskCancelledError):
        return WorkCancelled()
    # Serve itself fails a request whose arguments died with the replica that made them.
    if isinstance(error, (RayServeException, RayActorError, ObjectLostError)):
        return PoolUnavailable()
    return error
