"""Images of chosen rows of a dataset version, without those of the others."""

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.table.delta import data_files
from pangu.data.table.rows_file import RowsFile
from pangu.errors import UserError
from pangu.storage import Home


def chosen_images(
    home: Home, name: str, version: int, keys: Collection[str], upscaled: bool | None = None
) -> Iterator[tuple[str, bytes]]:
    """Key and encoded image of each row in `keys`, in the order of the files; of one partition or of both.

    Of every row the key is read, and images from those row groups alone that hold a chosen one, one group in memory at a time.
    The last of them ends it.

    Raises:
        UserError: no such dataset or version, or a key is not in it.
    """
    left = set(keys)
    for file in data_files(home, name, version, upscaled) if left else []:
        with RowsFile(file) as source:
            for group in range(source.num_row_groups):
                if not left:
                    return
                found = source.read_row_group(group, columns=["key"])["key"]
                places = np.flatnonzero(pc.is_in(found, pa.array(sorted(left), found.type)))
                if len(places):
                    chosen = source.take(group, places.tolist(), ["key", "image"])
                    keys_there = chosen["key"].to_pylist()
                    left.difference_update(keys_there)
                    yield from ((key, image.as_py()) for key, image in zip(keys_there, chosen["image"], strict=True))
    if left:
        raise UserError(f"Version {version} of dataset '{name}' has no row {min(left)}.")
