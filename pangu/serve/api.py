"""The HTTP surface: OpenAI's Images endpoints as a FastAPI application over anything that can draw.

Owns routes, status codes and the shape of answers. Knows nothing of Ray: a `Studio` does the drawing.
"""

import base64
import secrets
import time
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pangu.serve import schema
from pangu.serve.handoff import Job, Pictures, Release
from pangu.serve.metrics import Metrics
from pangu.serve.schema import ApiError, ErrorBody, ImageData, ImageRequest, ImageResponse, ReleaseName


class Studio(Protocol):
    """Whatever draws the images."""

    async def draw(self, job: Job) -> Pictures:
        """Raises ApiError."""
        ...

    async def releases(self) -> dict[str, Release | None]:
        """Name of each part -> the release that it gives to new requests; None while it has none. Never raises."""
        ...


def build_api(studio: Studio, metrics: Metrics) -> FastAPI:
    """The application. Its OpenAPI document carries every bound of `schema`."""
    api = FastAPI(title="PanGu", description="OpenAI's Images API, drawn by a structure-texture pair.")
    _add_errors(api, metrics)
    _add_images(api, studio, metrics)
    _add_models(api, studio)
    _add_health(api, studio, metrics)
    return api


def _add_images(api: FastAPI, studio: Studio, metrics: Metrics) -> None:
    body_schema = {"content": {"application/json": {"schema": ImageRequest.model_json_schema()}}, "required": True}
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (400, 404, 413, 429, 503, 504)}

    @api.post(
        "/v1/images/generations",
        response_model=ImageResponse,
        responses=refusals,
        openapi_extra={"requestBody": body_schema},
    )
    async def generate(request: Request) -> Response:
        asked = schema.parse_body(await _limited_body(request))
        job = job_of(asked)
        pictures = await studio.draw(job)
        metrics.drawn(len(pictures.files), pictures.seconds)
        answer = answer_of(asked, job, pictures)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _add_models(api: FastAPI, studio: Studio) -> None:
    async def model() -> dict[str, Any]:
        release = (await studio.releases())["structure"]
        created = release.created if release else 0
        version = release.pair_version if release else None
        return {"id": schema.MODEL, "object": "model", "created": created, "owned_by": "pangu", "pair_version": version}

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [await model()]}

    @api.get("/v1/models/{name}", responses={404: {"model": ErrorBody}})
    async def show_model(name: str) -> dict[str, Any]:
        if name != schema.MODEL:
            raise schema.unknown_model(name)
        return await model()


def _add_health(api: FastAPI, studio: Studio, metrics: Metrics) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        releases = await studio.releases()
        parts = {
            part: None if release is None else {"pair_version": release.pair_version, "sha256": release.sha256}
            for part, release in releases.items()
        }
        ready = all(parts.values())
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    @api.get("/metrics")
    async def exposition() -> Response:
        text, media_type = metrics.exposition()
        return Response(text, media_type=media_type)


def _add_errors(api: FastAPI, metrics: Metrics) -> None:
    def answer(error: ApiError) -> JSONResponse:
        metrics.refused(error.status)
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return JSONResponse(error.body.model_dump(), status_code=error.status, headers=headers)

    @api.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @api.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            return answer(
                ApiError(405, f"{request.url.path} does not take {request.method}.", code="method_not_allowed")
            )
        return answer(ApiError(error.status_code, "There is no such path; see /docs.", code="not_found"))

    @api.exception_handler(RequestValidationError)
    async def bad_path(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(ApiError(400, "The path or query is invalid.", code="invalid_value"))

    @api.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        # The traceback goes to the log of the server, never to the client.
        return answer(ApiError(500, "The server failed on this request.", kind="server_error", code="internal_error"))


async def _limited_body(request: Request) -> bytes:
    """The body, read no further than the limit.

    Raises:
        ApiError: 413.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > schema.MAX_BODY_BYTES:
        raise schema.body_too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > schema.MAX_BODY_BYTES:
            raise schema.body_too_large()
    return bytes(body)


def job_of(asked: ImageRequest) -> Job:
    """What the pools are asked for; a request without a seed gets one here, and the answer says which."""
    return Job(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        images=asked.n,
        width_height=asked.width_height,
        steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        seed=secrets.randbelow(schema.MAX_SEED + 1) if asked.seed is None else asked.seed,
        output_format=asked.output_format,
        output_compression=asked.output_compression,
    )


def answer_of(asked: ImageRequest, job: Job, pictures: Pictures) -> ImageResponse:
    """OpenAI's answer to a drawn request."""
    data = []
    for index, file in enumerate(pictures.files):
        text = base64.b64encode(file).decode()
        if asked.response_format == "url":
            data.append(ImageData(url=f"data:image/{asked.output_format};base64,{text}", seed=job.seed_of(index)))
        else:
            data.append(ImageData(b64_json=text, seed=job.seed_of(index)))
    width, height = pictures.width_height
    release = pictures.release
    return ImageResponse(
        created=int(time.time()),
        data=data,
        output_format=asked.output_format,
        size=f"{width}x{height}",
        release=ReleaseName.model_validate(release.model_dump(include=set(ReleaseName.model_fields))),
        seed=job.seed,
        scheduler=pictures.scheduler,
        num_inference_steps=pictures.steps,
        guidance_scale=pictures.guidance_scale,
        seconds={stage: round(value, 4) for stage, value in pictures.seconds.items()},
    )
