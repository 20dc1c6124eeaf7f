"""Numbers by row as tensors that need no memory: they lie in files, and the page cache decides what of them is there."""

import os
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 1 << 16
"""So many numbers are copied together without a file."""


def as_tensor(array: np.ndarray) -> Tensor:
    """The array itself, not a copy, for reading only where it lies in a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Numbers (N,) one after the other: many of them in a file without a name, so that they need no memory."""
    if sum(map(len, parts)) < IN_MEMORY:
        return torch.cat(list(parts))
    with tempfile.TemporaryFile(dir=os.environ.get("PANGU_CACHE") or None) as file:
        for part in parts:
            part.numpy().tofile(file)
        file.flush()
        return torch.from_numpy(np.memmap(file, parts[0].numpy().dtype, "r+"))
