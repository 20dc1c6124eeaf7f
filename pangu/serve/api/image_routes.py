"""The routes that draw: generations from text, edits and variations of an image; answered at once or as server-sent events."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pangu.serve.api import refusals
from pangu.serve.api.disconnect import while_connected
from pangu.serve.api.image_urls import ImageUrls, address_of
from pangu.serve.api.keys import KeyRing
from pangu.serve.api.refined import NOT_FOR_EDITS, NOT_FOR_VARIATIONS, Refinement, edit_of, variation_of
from pangu.serve.api.request_body import Form, form_of, limited_body
from pangu.serve.api.requests import EditRequest, ImageRequest, parse_body
from pangu.serve.api.responses import ImageResponse, Kind, ReadTexts, answer_of, events_of, headers_of, read_texts
from pangu.serve.api.studio_interface import Drawing
from pangu.serve.api.translate import job_of
from pangu.serve.error_answers import CLIENT_LEFT, ApiError, ErrorBody, client_left, invalid
from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings

CHANNEL_HEADER = "x-pangu-release"
CHANNELS = ("champion", "canary")
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 404, 413, 429, 500, 503, 504)
}
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


@dataclass(frozen=True)
class Served:
    """What all routes need."""

    engine: Drawing
    metrics: Metrics
    keys: KeyRing
    settings: ServeSettings
    files: ImageUrls


def add_to(api: FastAPI, engine: Drawing, metrics: Metrics, keys: KeyRing, settings: ServeSettings) -> None:
    """Put the routes on `api`."""
    files = ImageUrls(settings)
    files.add_to(api)
    served = Served(engine, metrics, keys, settings, files)

    @api.post(
        "/v1/images/generations",
        response_model=ImageResponse,
        responses={200: {"content": STREAM}, **REFUSALS},
        openapi_extra=_documented("application/json", _json_schema()),
    )
    async def generate(request: Request) -> Response:
        with refusals.counting_departures(metrics), ExitStack() as stack:
            account = keys.account(request.headers.get("authorization"))
            asked = parse_body(await limited_body(request, "application/json"), settings.model_aliases)
            job = job_of(asked, settings)
            spending = account.spend() if account else nullcontext()
            return await _answer(request, "image_generation", asked, job, served, spending, stack)

    @api.post(
        "/v1/prompts/check",
        response_model=ReadTexts,
        responses=REFUSALS,
        openapi_extra=_documented("application/json", _json_schema()),
    )
    async def check(request: Request) -> ReadTexts:
        with refusals.counting_departures(metrics):
            keys.account(request.headers.get("authorization"))
            asked = parse_body(await limited_body(request, "application/json"), settings.model_aliases)
            job, channel = job_of(asked, settings), channel_of(request)
            return read_texts(*await while_connected(request, engine.read(job, channel)))

    @api.post(
        "/v1/images/edits",
        response_model=ImageResponse,
        responses={200: {"content": STREAM}, **REFUSALS},
        openapi_extra=_documented("multipart/form-data", _form_schema(NOT_FOR_EDITS, ["prompt", "image"])),
    )
    async def edit(request: Request) -> Response:
        return await _refined(request, served, edit_of)

    @api.post(
        "/v1/images/variations",
        response_model=ImageResponse,
        responses={200: {"content": STREAM}, **REFUSALS},
        openapi_extra=_documented("multipart/form-data", _form_schema(NOT_FOR_VARIATIONS, ["image"])),
    )
    async def vary(request: Request) -> Response:
        return await _refined(request, served, variation_of)


async def _refined(request: Request, served: Served, meant: Callable[[Form, ServeSettings], Refinement]) -> Response:
    with refusals.counting_departures(served.metrics), ExitStack() as stack:
        account = served.keys.account(request.headers.get("authorization"))
        asked, job = meant(await form_of(request), served.settings)
        spending = account.spend() if account else nullcontext()
        return await _answer(request, "image_edit", asked, job, served, spending, stack)


async def _answer(
    request: Request,
    kind: Kind,
    asked: ImageRequest,
    job: Job,
    served: Served,
    spending: AbstractContextManager[None],
    stack: ExitStack,
) -> Response:
    channel, engine, metrics = channel_of(request), served.engine, served.metrics
    stack.enter_context(spending)
    if not asked.stream:
        pictures = await while_connected(request, engine.draw(job, channel))
        _count(metrics, pictures)
        base_url = address_of(request)
        answer = answer_of(asked, job, pictures, lambda file, kind: served.files.url_of(file, kind, base_url))
        headers = headers_of(pictures)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)
    messages = engine.watch(job, channel)
    # Whatever is refused is refused with its status, before the first byte of the stream.
    first: PartialImage | GeneratedImages = await while_connected(request, anext(messages))

    async def events() -> AsyncIterator[str]:
        message = first
        try:
            while True:
                if isinstance(message, GeneratedImages):
                    _count(metrics, message)
                for event in events_of(kind, asked, job, message):
                    yield server_sent(str(event["type"]), event)
                stream.answered = stream.answered or isinstance(message, GeneratedImages)
                message = await anext(messages)
        except StopAsyncIteration:
            return
        except ApiError as error:
            if error.status == CLIENT_LEFT:
                return
            stream.answered = True
            refusals.count(metrics, error)
            yield server_sent("error", error.body.model_dump())

    stream = EventStream(events(), messages, stack.pop_all(), metrics, headers_of(first))
    return stream


class EventStream(StreamingResponse):
    """Server-sent events; however it ends, the work behind them ends too, and what was held for it is released.

    A client that leaves before it is `answered`, by its images or an error, is counted as such: nobody is there to read an error.
    """

    def __init__(
        self, events: AsyncIterator[str], work: Any, held: ExitStack, metrics: Metrics, said: dict[str, str]
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **said}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._work, self._held, self._metrics = work, held, metrics
        self.answered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                with suppress(ClientDisconnect):
                    await super().__call__(scope, receive, send)
            finally:
                if not self.answered:
                    refusals.count(self._metrics, client_left())
                await self._work.aclose()


def channel_of(request: Request) -> str | None:
    """Which release the client asks for by header.

    Raises:
        ApiError: 400, no such channel.
    """
    channel = request.headers.get(CHANNEL_HEADER)
    if channel is not None and channel not in CHANNELS:
        raise invalid(f"Invalid value for 'X-PanGu-Release': use {' or '.join(CHANNELS)}.", "X-PanGu-Release")
    return channel


def server_sent(name: str, value: dict[str, Any]) -> str:
    """One event of a text/event-stream."""
    return f"event: {name}\ndata: {json.dumps(value)}\n\n"


def _count(metrics: Metrics, pictures: GeneratedImages) -> None:
    version, shown = pictures.release.pair_version, len(pictures.files) - pictures.files.count(None)
    metrics.drawn(shown, pictures.seconds, pictures.batch_sizes, version, pictures.cached)


def _documented(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"content": {media_type: {"schema": schema}}, "required": True}
    channel = {
        "name": "X-PanGu-Release",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "enum": list(CHANNELS)},
    }
    return {"requestBody": body, "parameters": [channel]}


@cache
def _json_schema(kind: type[ImageRequest] = ImageRequest) -> dict[str, Any]:
    """Of the body of a request, with its parts inlined, because references would point into another document."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})
    return _inlined(schema, parts)


def _inlined(value: Any, parts: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            rest = {name: inner for name, inner in value.items() if name != "$ref"}
            return _inlined(parts[value["$ref"].rsplit("/", 1)[1]], parts) | rest
        return {name: _inlined(inner, parts) for name, inner in value.items()}
    if isinstance(value, list):
        return [_inlined(inner, parts) for inner in value]
    return value


def _form_schema(refused: tuple[str, ...], required: list[str]) -> dict[str, Any]:
    schema = _json_schema(EditRequest)
    fields = {name: value for name, value in schema["properties"].items() if name not in refused}
    fields["image"] = {"type": "string", "format": "binary", "description": "The image to refine: png, jpeg or webp"}
    fields["mask"] = {
        "type": "string",
        "format": "binary",
        "description": "A png as large as the image; only where it is fully transparent the image is edited",
    }
    return schema | {"properties": fields, "required": required}
