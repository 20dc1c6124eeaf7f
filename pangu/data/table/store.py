"""Where a dataset table lies, on a disk or in S3, and how its files are written and opened.

S3 is addressed as everywhere: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and its like in the environment.
"""

import errno
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pangu.data.table import folder_links
from pangu.errors import UserError
from pangu.storage import Home, replacing

S3 = "s3://"
UNFIT_IN_URI = re.compile(r"[#?%\[\]^|\\]")
"""See `folder_links.UNFIT`; in object storage no link helps."""


@dataclass(frozen=True)
class TableStore:
    """The folder of one table: an absolute path, or s3://BUCKET/PREFIX."""

    uri: str

    @classmethod
    def of(cls, home: Home, name: str) -> "TableStore":
        return cls(home.table_uri(name))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def delta_uri(self) -> str:
        """What deltalake is told: the folder, a plain folder of links to it, or an encoded URI.

        Raises:
            UserError: a URI has a character that deltalake cannot take, not even encoded.
        """
        if not self.is_local:
            if found := UNFIT_IN_URI.search(self.uri):
                raise UserError(
                    f"Delta's library takes no table at {self.uri}: its address has '{found[0]}' in it; choose another."
                )
            return quoted(self.uri)
        return str(folder_links.for_delta(Path(self.uri)))

    def file(self, logged: str) -> str:
        """The address of a data file that Delta's log names: an absolute path, or a URI that pyarrow opens.

        logged: percent-encoded and relative to the table, as the protocol has it
            (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#add-file-and-remove-file).
        """
        return addressed(f"{self.uri}/{urllib.parse.unquote(logged)}")

    @property
    def options(self) -> dict[str, str] | None:
        """What deltalake is told beyond the environment."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        return {"aws_allow_http": "true"} if endpoint.startswith("http://") and not self.is_local else None

    @property
    def _filesystem(self) -> Any:
        return pyarrow.fs.LocalFileSystem() if self.is_local else _arrow(addressed(self.uri))

    def write_parquet(self, path: str, rows: pa.Table, row_group_size: int | None = None, **layout: Any) -> int:
        """Write a file that readers see whole or not at all; returns its size in bytes.

        Raises:
            UserError: the disk is full, or the bucket cannot be reached.
        """
        with self.parquet_writer(path, rows.schema, **layout) as writer:
            writer.write_table(rows, row_group_size=row_group_size)
        size = self.size(path)
        assert size is not None
        return size

    @contextmanager
    def parquet_writer(self, path: str, schema: pa.Schema, **layout: Any) -> Iterator[pq.ParquetWriter]:
        """A writer whose file appears, whole and on the disk, when the block ends without an error.

        Raises:
            UserError: the disk is full, or the bucket cannot be reached.
        """
        with storage_errors(self.uri):
            if not self.is_local:
                sink = self._filesystem.open_output_stream(self._inside(path))
                with sink, pq.ParquetWriter(sink, schema, **layout) as writer:
                    yield writer
                return
            with replacing(Path(self.uri) / path) as file, pq.ParquetWriter(file, schema, **layout) as writer:
                yield writer

    def size(self, path: str) -> int | None:
        """Bytes of a file of the table; None if it is not there."""
        if self.is_local:
            file = Path(self.uri) / path
            return file.stat().st_size if file.is_file() else None
        with storage_errors(self.uri):
            return self._filesystem.get_file_info(self._inside(path)).size

    def files_in(self, folder: str) -> list[Any]:
        """Every file below a folder of the table, as Arrow's `FileInfo`; none where there is no such folder."""
        with storage_errors(self.uri):
            selector = pyarrow.fs.FileSelector(self._inside(folder), allow_not_found=True, recursive=True)
            return [found for found in self._filesystem.get_file_info(selector) if found.is_file]

    def delete(self, path: str) -> None:
        """Delete a file that `files_in` named, by its path there."""
        with storage_errors(self.uri):
            self._filesystem.delete_file(path)

    def _inside(self, path: str) -> str:
        return f"{self.uri if self.is_local else self.uri.partition('://')[2]}/{path}"


def quoted(uri: str) -> str:
    """An S3 URI with its path percent-encoded; whatever is not in S3 stays as it is.

    uri: s3://BUCKET/PATH as a person writes it, nothing in it encoded.
    """
    return S3 + urllib.parse.quote(uri.removeprefix(S3)) if uri.startswith(S3) else uri


def addressed(uri: str) -> str:
    """A path, or a URI that pyarrow opens by itself: S3 ones are encoded and carry the endpoint that the environment names."""
    endpoint = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    if not uri.startswith(S3) or not endpoint.netloc:
        return quoted(uri)
    options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if region := os.environ.get("AWS_REGION"):
        options["region"] = region
    return f"{quoted(uri)}?{urllib.parse.urlencode(options)}"


def unaddressed(address: str) -> str:
    """What `addressed` was given: a path is one already, whatever characters it has."""
    if not address.startswith(S3):
        return address
    return urllib.parse.unquote(address.partition("?")[0])


def located(files: list[str]) -> tuple[Any, list[str]]:
    """A filesystem (None for this machine's) and the paths on it.

    files: one or more addresses, all in one place.
    """
    if "://" not in files[0]:
        return None, files
    return _arrow(files[0]), [unaddressed(file).partition("://")[2] for file in files]


def file_system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of any URI, and the path on it; S3 by Arrow, at the endpoint of the environment."""
    if "://" not in uri:
        return fsspec.filesystem("file"), uri  # fsspec itself would take '::' in a path for two file systems
    if not uri.startswith(S3):
        return fsspec.core.url_to_fs(uri)
    from fsspec.implementations.arrow import ArrowFSWrapper

    path = uri.removeprefix(S3)
    return ArrowFSWrapper(_arrow(addressed(S3 + path.partition("*")[0]))), path


def _arrow(address: str) -> Any:
    """Arrow's filesystem for what `addressed` returns of a URI: one for each bucket."""
    if not address.startswith(S3):
        return pyarrow.fs.FileSystem.from_uri(address)[0]
    path, _, options = address.removeprefix(S3).partition("?")
    return _client(f"{S3}{path.partition('/')[0]}?{options}", os.getpid())


@lru_cache(maxsize=16)
def _client(bucket: str, process: int) -> Any:
    """Making one takes 20 ms of a processor, and a question to the bucket where the environment names no region.

    process: which uses it; a client does not survive a fork.
    """
    return pyarrow.fs.FileSystem.from_uri(bucket)[0]


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn what a disk or a bucket refuses into one sentence that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"The disk of {uri} is full; make room and run the same command again.") from error
        if "://" not in uri:
            raise
        what = " ".join(str(error).split())[:200]
        raise UserError(f"The store {uri} cannot be used ({what}); check AWS_ENDPOINT_URL, bucket and keys.") from error
