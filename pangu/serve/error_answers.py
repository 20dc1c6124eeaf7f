"""Every refusal that a client can get, as OpenAI's error object."""

from pydantic import BaseModel

MODEL = "pangu-pair"
CLIENT_LEFT = 499
"""The status of a request whose client left: a name of the metrics, not of HTTP."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """What every answer with a status of 400 or more carries."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal, as the client will see it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


class PoolBusy(Exception):
    """A pool takes no further request at the moment."""


class PoolUnavailable(Exception):
    """A pool is not there at the moment."""


class WorkCancelled(Exception):
    """The work was cancelled because nobody waits for it any more."""


def invalid(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def unknown_model(name: str) -> ApiError:
    return ApiError(
        404,
        f"The model '{printable(name)}' does not exist; use '{MODEL}' (the owner of a server can declare model_aliases).",
        param="model",
        code="model_not_found",
    )


def body_too_large(most_bytes: int) -> ApiError:
    return ApiError(413, f"The body must not be longer than {most_bytes} bytes.", code="request_too_large")


def denied() -> ApiError:
    message = "The prompt holds something that this server does not draw."
    kind = "image_generation_user_error"
    return ApiError(400, message, param="prompt", code="moderation_blocked", kind=kind)


def withheld() -> ApiError:
    """What is said of images that were drawn and are not shown."""
    message = "What was drawn may not be shown; ask for something else, or with another seed."
    return ApiError(400, message, code="moderation_blocked", kind="image_generation_user_error")


def busy(retry_after_s: int, message: str = "Too many requests are being drawn; try again later.") -> ApiError:
    return ApiError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after_s=max(1, retry_after_s)
    )


def unavailable(retry_after_s: int) -> ApiError:
    message = "A part of the model is not available at the moment; try again."
    return ApiError(503, message, kind="server_error", code="unavailable", retry_after_s=retry_after_s)


def too_late(timeout_s: float) -> ApiError:
    message = f"The image was not ready within {timeout_s:g} s; ask for fewer steps or images."
    return ApiError(504, message, kind="server_error", code="timeout")


def internal() -> ApiError:
    return ApiError(500, "The server failed on this request.", kind="server_error", code="internal_error")


def not_finite() -> ApiError:
    message = "The model gave values that are not finite, so there is no image; its weights or settings are at fault."
    return ApiError(500, message, kind="server_error", code="not_finite")


def client_left() -> ApiError:
    """What the metrics count; nobody reads it."""
    return ApiError(CLIENT_LEFT, "The client closed the connection.", code="client_closed_request")


def body_too_slow(seconds: float) -> ApiError:
    message = f"The body did not arrive within {seconds:g} s."
    return ApiError(408, message, code="request_timeout")


def overloaded(retry_after_s: int) -> ApiError:
    message = "Too many connections are open; try again later."
    return ApiError(503, message, kind="server_error", code="overloaded", retry_after_s=retry_after_s)


def foreign_page() -> ApiError:
    """What is said to a page of another site that sends requests here without a key."""
    message = "Pages of other sites may not ask this server without a key."
    return ApiError(403, message, code="foreign_page")


def printable(text: str) -> str:
    """Client text that is safe to repeat: short, on one line, and without lone surrogates, which no encoder accepts."""
    short = text if len(text) <= 64 else text[:64] + "..."
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in short)
