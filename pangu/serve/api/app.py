"""The FastAPI application: routes, status codes, errors. Its OpenAPI document carries every bound."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pangu.serve.api import images, pages
from pangu.serve.api.keys import KeyRing
from pangu.serve.api.middleware import RequestMiddleware
from pangu.serve.api.refusals import answer_with
from pangu.serve.api.studio_interface import Drawing
from pangu.serve.drawing.messages import Release
from pangu.serve.errors import MODEL, ApiError, ErrorBody, client_left, internal, unknown_model
from pangu.serve.metrics import Metrics
from pangu.serve.settings import ServeSettings

logger = logging.getLogger(__name__)


def build_api(
    studio: Drawing, metrics: Metrics, keys: KeyRing | None = None, settings: ServeSettings | None = None
) -> FastAPI:
    """The application over `studio`; without `keys` everybody may draw."""
    settings = settings or ServeSettings()
    about = "OpenAI's Images API, drawn by a structure-texture pair."
    # FastAPI's own pages load their scripts from elsewhere.
    api = FastAPI(title="PanGu", description=about, version="1", docs_url=None, redoc_url=None)
    api.add_middleware(RequestMiddleware, metrics=metrics)
    _add_errors(api, metrics)
    pages.add_to(api)
    images.add_to(api, studio, metrics, keys or KeyRing(), settings)
    _add_models(api, studio, settings)
    _add_health(api, studio, metrics)
    return api


def _add_models(api: FastAPI, studio: Drawing, settings: ServeSettings) -> None:
    names = (MODEL, *settings.model_aliases)

    async def model(name: str) -> dict[str, Any]:
        release = studio.lineup.champion if studio.lineup else None
        return {
            "id": name,
            "object": "model",
            "created": release.created if release else 0,
            "owned_by": "pangu",
            "pair_version": release.pair_version if release else None,
            "structure_version": release.structure_version if release else None,
            "texture_version": release.texture_version if release else None,
            "partners": studio.partners,
            **(release.offers.model_dump(mode="json") if release else {}),
        }

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [await model(name) for name in names]}

    @api.get("/v1/models/{name:path}", responses={404: {"model": ErrorBody}})
    async def show_model(name: str) -> dict[str, Any]:
        if name not in names:
            raise unknown_model(name)
        return await model(name)


def _add_health(api: FastAPI, studio: Drawing, metrics: Metrics) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", responses={503: {"description": "A part does not hold the champion yet"}})
    async def readyz() -> Response:
        lineup, held = studio.lineup, await studio.holdings()
        champion = lineup.champion if lineup else None
        ready = champion is not None and all(champion.sha256 in hashes for hashes in held.values())
        ready = ready and champion is not None and champion.sha256 in studio.warmed
        state = {
            "ready": ready,
            "champion": _named(champion),
            "canary": _named(lineup.canary if lineup else None),
            "canary_share": lineup.canary_share if lineup else 0.0,
            "warmed": sorted(studio.warmed),
            "parts": held,
        }
        return JSONResponse(state, status_code=200 if ready else 503)

    @api.get("/metrics")
    async def exposition() -> Response:
        text, media_type = metrics.exposition()
        return Response(text, media_type=media_type)


def _named(release: Release | None) -> dict[str, Any] | None:
    return None if release is None else {"pair_version": release.pair_version, "sha256": release.sha256}


def _add_errors(api: FastAPI, metrics: Metrics) -> None:
    def answer(error: ApiError) -> JSONResponse:
        return answer_with(metrics, error)

    @api.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        if error.status >= 500 and error.__cause__ is not None:
            logger.error("a request failed", exc_info=error.__cause__)
        return answer(error)

    @api.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(client_left())

    @api.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}."
            refusal = answer(ApiError(405, message, code="method_not_allowed"))
            refusal.headers.update(error.headers or {})
            return refusal
        return answer(ApiError(error.status_code, "There is no such path; see /docs.", code="not_found"))

    @api.exception_handler(RequestValidationError)
    async def bad_path(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(ApiError(400, "The path or query is invalid.", code="invalid_value"))

    @api.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        # The traceback goes to the log of the server, never to the client.
        return answer(internal())
