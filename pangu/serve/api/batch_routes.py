"""The batch door, as OpenAI defines it: a file of requests in, a file of answers out."""

from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile

from pangu.serve.api.batch_runner import ENDPOINT, BatchRunner
from pangu.serve.api.keys import KeyRing
from pangu.serve.api.request_body import limited_body, parsed_form
from pangu.serve.api.request_fields import Strict
from pangu.serve.batch_store import BatchStore, RequestBatch, StoredFile
from pangu.serve.error_answers import ApiError, ErrorBody, invalid
from pangu.serve.settings import BatchSettings

REFUSALS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (400, 401, 404, 413)}


class BatchRequest(Strict):
    """The body of `POST /v1/batches`."""

    input_file_id: str = Field(max_length=100)
    endpoint: Literal["/v1/images/generations"]
    completion_window: str = Field("24h", max_length=16, description="Accepted for compatibility, without effect")
    metadata: dict[str, str] | None = Field(None, max_length=16)


def add_to(api: FastAPI, keys: KeyRing, settings: BatchSettings, runner: BatchRunner, store: BatchStore) -> None:
    """Put the routes on `api`."""

    def owner_of(request: Request) -> str:
        account = keys.account(request.headers.get("authorization"))
        return account.key.name if account else ""

    def found_file(request: Request, file_id: str) -> tuple[StoredFile, Path]:
        found = store.file(file_id, owner_of(request))
        if found is None:
            raise ApiError(404, "There is no such file.", code="not_found")
        return found

    def found_batch(request: Request, batch_id: str) -> RequestBatch:
        found = store.batch(batch_id, owner_of(request))
        if found is None:
            raise ApiError(404, "There is no such batch.", code="not_found")
        return found

    @api.post("/v1/files", responses=REFUSALS)
    async def upload(request: Request) -> dict[str, Any]:
        owner, form = owner_of(request), await parsed_form(request)
        file = form.get("file")
        if form.get("purpose") != "batch":
            raise invalid("Invalid value for 'purpose': files are kept for 'batch' alone.", "purpose")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter")
        if store.used_bytes > settings.most_bytes:
            raise invalid(f"Invalid value for 'file': more than {settings.most_bytes} bytes are kept already.", "file")
        return _file_object(store.add_file(owner, Path(file.filename or "batch.jsonl").name[:200], await file.read()))

    @api.get("/v1/files/{file_id}", responses=REFUSALS)
    async def show_file(request: Request, file_id: str) -> dict[str, Any]:
        return _file_object(found_file(request, file_id)[0])

    @api.get("/v1/files/{file_id}/content", responses=REFUSALS)
    async def content(request: Request, file_id: str) -> FileResponse:
        return FileResponse(found_file(request, file_id)[1], media_type="application/jsonl")

    @api.delete("/v1/files/{file_id}", responses=REFUSALS)
    async def delete(request: Request, file_id: str) -> dict[str, Any]:
        stored, path = found_file(request, file_id)
        if path.parent.name != "files":
            raise invalid("Invalid value for 'file_id': the answers of a batch stay as long as it.", "file_id")
        store.delete(stored)
        return {"id": file_id, "object": "file", "deleted": True}

    @api.post("/v1/batches", responses=REFUSALS)
    async def create(request: Request) -> dict[str, Any]:
        owner, body = owner_of(request), await limited_body(request, "application/json")
        try:
            asked = BatchRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            param = str(first["loc"][0]) if first["loc"] else "body"
            raise invalid(f"Invalid value for '{param}': {first['msg']}.", param) from None
        found = store.file(asked.input_file_id, owner)
        if found is None or found[1].parent.name != "files":
            raise invalid("Invalid value for 'input_file_id': there is no such file.", "input_file_id")
        batch = store.create(owner, asked.input_file_id, asked.metadata or {})
        runner.look()
        return _batch_object(store, batch)

    @api.get("/v1/batches", responses=REFUSALS)
    async def list_batches(request: Request) -> dict[str, Any]:
        found = [_batch_object(store, batch) for batch in reversed(store.batches(owner_of(request)))]
        return {"object": "list", "data": found, "has_more": False}

    @api.get("/v1/batches/{batch_id}", responses=REFUSALS)
    async def show(request: Request, batch_id: str) -> dict[str, Any]:
        return _batch_object(store, found_batch(request, batch_id))

    @api.post("/v1/batches/{batch_id}/cancel", responses=REFUSALS)
    async def cancel(request: Request, batch_id: str) -> dict[str, Any]:
        batch = found_batch(request, batch_id)
        if batch.ended_at is None:
            store.cancel(batch)
        return _batch_object(store, found_batch(request, batch_id))


def _file_object(stored: StoredFile) -> dict[str, Any]:
    return stored.model_dump(exclude={"owner"}) | {"object": "file", "purpose": "batch", "status": "processed"}


def _batch_object(store: BatchStore, batch: RequestBatch) -> dict[str, Any]:
    counts = store.counts(batch)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "input_file_id": batch.input_file_id,
        "output_file_id": f"{batch.id}-output" if counts["completed"] else None,
        "error_file_id": f"{batch.id}-errors" if counts["failed"] else None,
        "status": batch.status,
        "created_at": batch.created_at,
        "completed_at": batch.ended_at if batch.status == "completed" else None,
        "cancelled_at": batch.ended_at if batch.status == "cancelled" else None,
        "request_counts": counts,
        "metadata": batch.metadata,
    }
