"""A safetensors file written in one pass, from the memory of the tensors to the disk, and hashed on the way.

safetensors' own writer makes the bytes of the whole file first, which takes their size in memory once more, and holds Python's
lock meanwhile: a checkpoint of tens of gigabytes is written beside a training that should not notice. Reading is safetensors'.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pangu.storage import replacing

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What the format calls a type of number."""
ALIGNMENT = 8
"""Bytes; the wide types come first, so that every tensor begins at a multiple of its own size."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors of the CPU as `path`, whole or not at all; returns the SHA-256 of the file in hexadecimal.

    Raises:
        OSError: the disk is full or gone.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % ALIGNMENT)
    digest = hashlib.sha256()
    with replacing(path) as file:
        for part in (len(head).to_bytes(8, "little"), head):
            digest.update(part)
            file.write(part)
        for name in order:
            # Neither hashing nor writing holds Python's lock.
            data = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
