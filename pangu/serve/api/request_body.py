"""Reading a request's body no further than its limit, and the form of an edit as the JSON it stands for."""

import json
import re
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pangu.serve.api import bounds
from pangu.serve.api.requests import ImageRequest
from pangu.serve.error_answers import ApiError, body_too_large, invalid, printable

Form = tuple[dict[str, Any], bytes, bytes | None]
"""(fields as `parse_request` takes them, the image file, the mask file or None)."""
NESTED = re.compile(r"(\w+)\[(\w+)\](?:\[(\w*)\])?", re.ASCII)
TEXTS = frozenset(
    name for name, field in ImageRequest.model_fields.items() if "str" in str(field.annotation) and name != "style"
)
"""Fields whose value in a form is the text itself; that of the others is JSON."""


async def limited_body(request: Request, kind: str) -> bytes:
    """The whole body of a request whose content type is `kind`.

    Raises:
        ApiError: 413 too long, 400 another content type.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdecimal() and len(declared) < 20 and int(declared) > bounds.MAX_BODY_BYTES:
        raise body_too_large(bounds.MAX_BODY_BYTES)
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != kind:
        message = f"The content type must be {kind}, not '{printable(found)}'."
        raise ApiError(400, message, code="invalid_content_type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bounds.MAX_BODY_BYTES:
            raise body_too_large(bounds.MAX_BODY_BYTES)
    return bytes(body)


async def parsed_form(request: Request) -> FormData:
    """A multipart form.

    Raises:
        ApiError: 413, 400 no such form.
    """
    body = await limited_body(request, "multipart/form-data")

    async def once() -> Any:
        yield body

    parser = MultiPartParser(
        request.headers,
        once(),
        max_files=bounds.MAX_FORM_FILES,
        max_fields=bounds.MAX_FORM_FIELDS,
        max_part_size=bounds.MAX_BODY_BYTES,
    )
    try:
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise ApiError(400, "The body is not a valid multipart form.", code="invalid_form") from error


async def form_of(request: Request) -> Form:
    """What a multipart form holds.

    Raises:
        ApiError: 413, 400 no such form, no image, several, or a file that is too long.
    """
    form = await parsed_form(request)
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            known = name.removesuffix("[]")
            if known not in files:
                param = printable(name)
                raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
            files[known].append(await _file(known, value))
        else:
            _put(fields, name, value)
    images, masks = files["image"], files["mask"]
    if not images:
        raise ApiError(400, "Missing required parameter: 'image'.", param="image", code="missing_required_parameter")
    if len(images) > 1:
        raise invalid(
            f"Invalid value for 'image': {len(images)} images were sent, but this model edits one; it can not combine several.",
            "image",
        )
    if len(masks) > 1:
        raise invalid("Invalid value for 'mask': one mask belongs to the image.", "mask")
    return fields, images[0], next(iter(masks), None)


async def _file(param: str, value: UploadFile) -> bytes:
    if (value.size or 0) > bounds.MAX_IMAGE_BYTES:
        raise invalid(f"Invalid value for '{param}': it is longer than {bounds.MAX_IMAGE_BYTES} bytes.", param)
    return await value.read()


def _put(fields: dict[str, Any], name: str, text: str) -> None:
    """`style[photo]=1` and `coop[partners][]=x` are how OpenAI's client writes objects into a form; JSON is taken too."""
    match = NESTED.fullmatch(name)
    if match is None or match[1] not in ImageRequest.model_fields:
        if name in fields:
            param = printable(name)
            raise ApiError(400, f"Invalid value for '{param}': it is given twice.", param=param, code="invalid_value")
        fields[name] = text if name in TEXTS else _json_or_text(text)
        return
    inner = fields.setdefault(match[1], {})
    if not isinstance(inner, dict):
        raise ApiError(400, f"Invalid value for '{match[1]}': it is given twice.", param=match[1], code="invalid_value")
    if match[3] is None:
        inner[match[2]] = _json_or_text(text)
        return
    deeper = inner.setdefault(match[2], {} if match[3] else [])
    if isinstance(deeper, dict) and match[3]:
        deeper[match[3]] = _json_or_text(text)
    elif isinstance(deeper, list) and not match[3]:
        deeper.append(_json_or_text(text))


def _json_or_text(text: str) -> Any:
    """What the text means as JSON; text that is none is left to the check of its field."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
