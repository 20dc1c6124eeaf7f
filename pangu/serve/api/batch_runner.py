"""Draws the lines of batches one by one while no request is waited for, and goes on after a restart where it was."""

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from pangu.errors import UserError
from pangu.file_lock import locked
from pangu.serve.api.requests import parse_request
from pangu.serve.api.responses import answer_of
from pangu.serve.api.studio_interface import Drawing
from pangu.serve.api.translate import job_of
from pangu.serve.batch_store import BatchStore, RequestBatch
from pangu.serve.error_answers import ApiError, internal, invalid
from pangu.serve.settings import ServeSettings

ENDPOINT = "/v1/images/generations"
LATER = (408, 429, 499, 503)
"""Statuses that say nothing about the request: it is drawn again."""
PAUSE_S, LOOK_S = 1.0, 2.0
logger = logging.getLogger(__name__)


class BatchRunner:
    """One of them draws for a folder, however many processes serve it: the others wait for its lock."""

    def __init__(self, engine: Drawing, settings: ServeSettings, store: BatchStore) -> None:
        self._engine, self._settings, self._store = engine, settings, store
        self._new = asyncio.Event()

    @asynccontextmanager
    async def running(self, _: Any = None) -> AsyncIterator[None]:
        """Within it lines are drawn."""
        work = asyncio.create_task(self._run())
        try:
            yield
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    def look(self) -> None:
        """There is a new batch."""
        self._new.set()

    async def _run(self) -> None:
        with ExitStack() as stack:
            while not self._holds(stack):
                await asyncio.sleep(PAUSE_S)
            while True:
                try:
                    await self._next()
                except Exception:
                    logger.exception("the batches in %s can not go on now", self._store.folder)
                    await asyncio.sleep(LOOK_S)

    async def _next(self) -> None:
        """The oldest batch that has not ended, or a look whether there is one."""
        self._new.clear()
        waiting = [batch for batch in self._store.batches() if batch.ended_at is None]
        if waiting:
            await self._draw(waiting[0])
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._new.wait(), LOOK_S)

    def _holds(self, stack: ExitStack) -> bool:
        try:
            stack.enter_context(locked(self._store.folder / "lock"))
        except UserError:
            return False
        return True

    async def _draw(self, batch: RequestBatch) -> None:
        store, names = self._store, dict[str, int]()
        answered = await asyncio.to_thread(store.answered, batch)
        for number, line in store.lines(batch):
            current = store.batch(batch.id)
            if current is None or current.status == "cancelling":
                store.end(batch, "cancelled")
                return
            name, body = _read(line)
            first = names.setdefault(name, number) if isinstance(name, str) else number
            line_id = f"{batch.id}-{number}"
            if line_id in answered:
                continue
            said: dict[str, Any] = {"id": line_id, "custom_id": name, "line": number, "response": None, "error": None}
            if isinstance(body, str) or first != number:
                reason = body if isinstance(body, str) else f"Its custom_id is that of line {first}."
                said["error"] = {"code": "invalid_line", "message": reason}
                await asyncio.to_thread(store.append, batch, said, True)
                continue
            said["response"] = response = await self._answer(line_id, body)
            failed = response["status_code"] != 200
            await asyncio.to_thread(store.append, batch, said, failed)
        store.end(batch, "completed")

    async def _answer(self, line_id: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                return {"status_code": 200, "request_id": line_id, "body": await self._drawn(line_id, body)}
            except ApiError as error:
                if error.status not in LATER:
                    return {"status_code": error.status, "request_id": line_id, "body": error.body.model_dump()}
                await asyncio.sleep(error.retry_after_s or PAUSE_S)
            except Exception:
                logger.exception("%s", line_id)
                return {"status_code": 500, "request_id": line_id, "body": internal().body.model_dump()}

    async def _drawn(self, line_id: str, body: dict[str, Any]) -> dict[str, Any]:
        asked = parse_request(body, self._settings.model_aliases)
        if asked.stream:
            raise invalid("Invalid value for 'stream': a line is answered as a whole.", "stream")
        job = job_of(asked, self._settings)
        if asked.seed is None:
            # Of the line, so that one that is drawn again after a kill is the same.
            job = replace(job, seed=int.from_bytes(hashlib.sha256(line_id.encode()).digest()[:4]))
        pictures = await self._engine.draw_behind(job)
        # A file outlives the memory that URLs are answered from.
        answer = answer_of(
            asked, job, pictures, lambda file, kind: f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
        )
        found: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True)
        return found


def _read(line: bytes) -> tuple[str | None, dict[str, Any] | str]:
    """(custom_id, body of the request) of a line, or what is wrong with it in the place of the body."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None, "The line is not valid JSON."
    if not isinstance(value, dict):
        return None, "The line must be a JSON object."
    name, url, method = value.get("custom_id"), value.get("url", ENDPOINT), value.get("method", "POST")
    if not isinstance(name, str) or not 0 < len(name) <= 512 or not name.isprintable():
        return None, "The line needs a custom_id, a text of at most 512 characters."
    if url != ENDPOINT or method != "POST":
        return name, f"Lines are requests of POST {ENDPOINT}."
    body = value.get("body")
    return name, body if isinstance(body, dict) else "The line needs a body, the JSON object of the request."
