"""A refusal as an HTTP answer, counted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.responses import JSONResponse

from pangu.serve.error_answers import ApiError, client_left
from pangu.serve.prometheus import Metrics


def count(metrics: Metrics, error: ApiError) -> None:
    """Under its status and code."""
    metrics.refused(error.status, error.body.error.code)


@contextmanager
def counting_departures(metrics: Metrics) -> Iterator[None]:
    """Within it, a request that is cancelled from outside is counted as one whose client left: Ray Serve tells it so."""
    try:
        yield
    except asyncio.CancelledError:
        count(metrics, client_left())
        raise


def answer_with(metrics: Metrics, error: ApiError) -> JSONResponse:
    """OpenAI's error object, with the headers that its status asks for."""
    count(metrics, error)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        # The rest of the body is still on its way; it belongs to no further request.
        headers["Connection"] = "close"
    return JSONResponse(error.body.model_dump(), status_code=error.status, headers=headers)
