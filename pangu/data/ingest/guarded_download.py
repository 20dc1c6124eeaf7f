"""`python -m pangu.data.ingest.guarded_download JOB.json`: img2dataset, with every download going through the guard.

Runs as a process of its own: img2dataset owns signal handlers and spawns workers. Started by `pangu.data.ingest.stage` only.
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ in ("__main__", "__mp_main__"):
    # Imported by img2dataset and its libraries, and of no use here, where images stay as they are: four fifths of every process's
    # start-up. The first two are taken only where they are found; the others are named, and never called.
    sys.modules.update(dict.fromkeys(("torch", "ray")))  # type: ignore[arg-type]
    sys.modules.update({name: ModuleType(name) for name in ("albumentations", "wandb")})

from img2dataset.downloader import Downloader

from pangu.config import Frozen
from pangu.data.ingest.guard import EgressPolicy, GuardedOpener

OPT_OUT = ["noai", "noimageai", "noindex", "noimageindex"]
"""Values of X-Robots-Tag that keep an image out."""


class DownloadJob(Frozen):
    """What the parent asks for."""

    parent_pid: int
    url_table: str
    shards: str
    image_column: str
    rows_per_shard: int
    processes: int
    threads: int
    retries: int
    memory_mb: int
    max_bytes: int
    max_seconds: float
    respect_opt_out: bool
    private_origins: tuple[tuple[str, int], ...]


class GuardedDownloader(Downloader):
    """img2dataset's downloader; travels to each worker process and installs the guard there, once."""

    def __init__(self, policy: EgressPolicy, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy, self._parent_pid = policy, os.getpid()

    def __call__(self, row: tuple[int, str]) -> tuple[bool, tuple[int, str]]:
        if not isinstance(getattr(urllib.request, "_opener", None), GuardedOpener):
            die_with_parent(self._parent_pid)
            urllib.request.install_opener(GuardedOpener(self._policy))
        return super().__call__(row)


class _NoLogger:
    """Instead of a further process that imports everything again only to print: the parent watches the shards itself."""

    def __init__(self, *_: Any) -> None:
        self.done_shards: set[int] = set()

    def start(self) -> None: ...

    def join(self) -> None: ...

    def terminate(self) -> None: ...


def die_with_parent(parent_pid: int) -> None:
    """Linux: end this process when the one that started it ends, even by SIGKILL, and even if it already has.

    Two downloads of one shard would tear its file: an orphan must not go on beside the ingest that continues its work.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_memory(megabytes: int) -> None:
    """Bound this process's data segment and that of every process it starts."""
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def main(job_file: str) -> None:
    job = DownloadJob.model_validate_json(Path(job_file).read_bytes())
    die_with_parent(job.parent_pid)
    limit_memory(job.memory_mb)
    policy = EgressPolicy(frozenset(job.private_origins), job.max_bytes, job.max_seconds)
    # `download` takes neither as an argument, but finds both in its module (which a function of its package hides).
    module: Any = importlib.import_module("img2dataset.main")
    module.Downloader, module.LoggerProcess = partial(GuardedDownloader, policy), _NoLogger
    module.download(
        url_list=job.url_table,
        input_format="parquet",
        output_folder=job.shards,
        output_format="parquet",
        url_col="url",
        save_additional_columns=["row"],
        number_sample_per_shard=job.rows_per_shard,
        processes_count=job.processes,
        thread_count=job.threads,
        retries=job.retries,
        timeout=job.max_seconds,
        resize_mode="no",
        encode_format=job.image_column,
        disable_all_reencoding=True,  # the bytes as they came; nothing is decoded here
        extract_exif=False,
        compute_hash=None,
        incremental_mode="incremental",
        user_agent_token="pangu",
        disallowed_header_directives=OPT_OUT if job.respect_opt_out else [],
    )


if __name__ == "__main__":
    main(sys.argv[1])
