"""The FastAPI application: routes, status codes, errors. Its OpenAPI document carries every bound."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pangu.extras import MissingExtra
from pangu.serve.api import batch_routes, image_routes, pages
from pangu.serve.api.batch_runner import BatchRunner
from pangu.serve.api.keys import KeyRing
from pangu.serve.api.middleware import RequestMiddleware
from pangu.serve.api.refusals import answer_with
from pangu.serve.api.studio_interface import Drawing
from pangu.serve.batch_store import BatchStore
from pangu.serve.error_answers import MODEL, ApiError, ErrorBody, client_left, internal, unknown_model
from pangu.serve.inference.messages import Release
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings

logger = logging.getLogger(__name__)


def build_api(
    engine: Drawing, metrics: Metrics, keys: KeyRing | None = None, settings: ServeSettings | None = None
) -> FastAPI:
    """The application over `engine`; without `keys` everybody may draw."""
    settings = settings or ServeSettings()
    about = "OpenAI's Images API, drawn by a structure-texture pair."
    runner = store = None
    if settings.batches is not None:
        store = BatchStore(settings.batches.folder)
        runner = BatchRunner(engine, settings, store)
    lifespan = None if runner is None else runner.running
    # FastAPI's own pages load their scripts from elsewhere.
    api = FastAPI(title="PanGu", description=about, version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    api.add_middleware(RequestMiddleware, metrics=metrics)
    _add_errors(api, metrics)
    pages.add_to(api)
    keys = keys or KeyRing()
    image_routes.add_to(api, engine, metrics, keys, settings)
    if settings.batches is not None and runner is not None and store is not None:
        batch_routes.add_to(api, keys, settings.batches, runner, store)
    _add_models(api, engine, settings)
    _add_health(api, engine, metrics)
    return api


def _add_models(api: FastAPI, engine: Drawing, settings: ServeSettings) -> None:
    names = (MODEL, *settings.model_aliases)

    async def model(name: str) -> dict[str, Any]:
        release = engine.routing.champion if engine.routing else None
        return {
            "id": name,
            "object": "model",
            "created": release.created if release else 0,
            "owned_by": "pangu",
            "pair_version": release.pair_version if release else None,
            "structure_version": release.structure_version if release else None,
            "texture_version": release.texture_version if release else None,
            **({"middle_versions": release.middle_versions} if release and release.middle_versions else {}),
            **({"experts_between": release.between} if release and release.between else {}),
            "partners": engine.partners,
            "varying_partners": settings.coop.varying,
            "loras": engine.loras,
            "enhances": settings.enhance is not None,
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


def _add_health(api: FastAPI, engine: Drawing, metrics: Metrics) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", responses={503: {"description": "A part does not hold the champion yet"}})
    async def readyz() -> Response:
        routing, held = engine.routing, await engine.holdings()
        champion = routing.champion if routing else None
        ready = champion is not None and all(champion.sha256 in hashes for hashes in held.values())
        ready = ready and champion is not None and champion.sha256 in engine.warmed
        state = {
            "ready": ready,
            "champion": _named(champion),
            "canary": _named(routing.canary if routing else None),
            "canary_share": routing.canary_share if routing else 0.0,
            "warmed": sorted(engine.warmed),
            "parts": held,
        }
        return JSONResponse(state, status_code=200 if ready else 503)

    @api.get("/metrics")
    async def exposition() -> Response:
        try:
            text, media_type = metrics.exposition()
        except MissingExtra as error:
            raise ApiError(501, str(error), code="missing_extra") from None
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
