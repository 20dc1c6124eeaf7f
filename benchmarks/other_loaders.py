"""The loaders that `benchmarks/loader.py` compares with, each in its best documented configuration."""

import io
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from pangu.data.encode.pixels import fit_pixels

SHARDS = 16
Batch = dict[str, Tensor]
Epoch = Callable[[], Iterator[Any]]


@dataclass(frozen=True)
class Case:
    """One kind of row: the raw bytes of each, and how the bytes of a field become an array."""

    rows: Sequence[dict[str, bytes]]
    decode: dict[str, Callable[[bytes], np.ndarray]]

    def collate(self, rows: Sequence[dict[str, bytes]]) -> Batch:
        """A batch of each field."""
        return {name: as_batch(np.stack([decode(row[name]) for row in rows])) for name, decode in self.decode.items()}


def as_batch(values: np.ndarray) -> Tensor:
    """Half precision as it is; (B, S, S, 3) uint8 -> (B, 3, S, S) uint8, without moving a byte."""
    tensor = torch.from_numpy(values)
    return tensor if values.dtype == np.float16 else tensor.permute(0, 3, 1, 2)


class FromBytes:
    """A field of fixed shape in half precision; a class, so that worker processes may be given it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float16).reshape(self.shape)


class Decode:
    """An encoded image as an array of one size: decoded whole, as their documentations show it, or as ours does it."""

    def __init__(self, side: int, as_ours: bool) -> None:
        self.side, self._as_ours = side, as_ours

    def __call__(self, data: bytes) -> np.ndarray:
        if self._as_ours:
            return fit_pixels(bytes(data), self.side)
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (self.side, self.side), Image.Resampling.LANCZOS))


def with_webdataset(case: Case, folder: Path, batch: int, workers: int) -> Epoch:
    import webdataset as wds

    with wds.ShardWriter(str(folder / "%03d.tar"), maxcount=-(-len(case.rows) // SHARDS), verbose=0) as sink:
        for index, row in enumerate(case.rows):
            sink.write({"__key__": f"{index:08d}", **{f"{name}.bin": data for name, data in row.items()}})

    def collate(rows: list[dict[str, bytes]]) -> Batch:
        return case.collate([{name: row[f"{name}.bin"] for name in case.decode} for row in rows])

    shards = sorted(map(str, folder.glob("*.tar")))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        .shuffle(256)
        .batched(batch, collation_fn=collate, partial=False)
    )
    return loader_epochs(wds.WebLoader(dataset, **loader_settings(None, workers)))


def with_datasets(case: Case, folder: Path, batch: int, workers: int) -> Epoch:
    import datasets

    datasets.disable_progress_bars()
    table = {name: [row[name] for row in case.rows] for name in case.decode}
    datasets.Dataset(pa.table(table)).save_to_disk(str(folder))
    stored = datasets.load_from_disk(str(folder)).with_format("arrow")

    class Batches(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(stored)

        def __getitems__(self, indices: list[int]) -> list[dict[str, bytes]]:
            found = stored[indices]
            columns = {name: [memoryview(value.as_buffer()) for value in found[name]] for name in case.decode}
            return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    settings = loader_settings(batch, workers)
    return loader_epochs(DataLoader(Batches(), shuffle=True, drop_last=True, collate_fn=case.collate, **settings))


def with_streaming(case: Case, folder: Path, batch: int, workers: int) -> Epoch:
    streaming = import_streaming()
    fields = {
        name: "bytes" if isinstance(decode, Decode) else f"ndarray:float16:{','.join(map(str, decode.shape))}"  # type: ignore[attr-defined]
        for name, decode in case.decode.items()
    }
    is_array = {name: field.startswith("ndarray") for name, field in fields.items()}
    with streaming.MDSWriter(out=str(folder), columns=fields, size_limit=1 << 26) as out:
        for row in case.rows:
            out.write({n: case.decode[n](data) if is_array[n] else data for n, data in row.items()})

    def collate(rows: list[dict[str, Any]]) -> Batch:
        return {
            name: as_batch(np.stack([row[name] if is_array[name] else decode(row[name]) for row in rows]))
            for name, decode in case.decode.items()
        }

    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=batch, num_canonical_nodes=1)
    settings = loader_settings(batch, workers)
    return loader_epochs(streaming.StreamingDataLoader(dataset, drop_last=True, collate_fn=collate, **settings))


def import_streaming() -> Any:
    """mosaicml-streaming without torchvision, which only its vision data sets would need."""
    import transformers.feature_extraction_utils  # noqa: F401  before it could find the stand-in

    stand_in = types.ModuleType("torchvision.datasets")
    stand_in.VisionDataset = object  # type: ignore[attr-defined]
    names = {"torchvision": types.ModuleType("torchvision"), "torchvision.datasets": stand_in}
    transforms = types.ModuleType("torchvision.transforms")
    transforms.__path__ = []  # type: ignore[attr-defined]
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = None  # type: ignore[attr-defined]
    names |= {"torchvision.transforms": transforms, "torchvision.transforms.functional": functional}
    sys.modules.update(names)
    try:
        import streaming
    finally:
        for name in names:
            del sys.modules[name]
    return streaming


def loader_settings(batch: int | None, workers: int) -> dict[str, Any]:
    """Of a DataLoader; without workers it knows no prefetching."""
    ahead = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    return {"batch_size": batch, "num_workers": workers, **ahead}


def loader_epochs(loader: Any) -> Epoch:
    return lambda: iter(loader)
