"""What only a GPU can show; `make gpu` runs it, in a Python that may hold no more than what computes.

`PANGU_GPU_TESTS=cpu` runs what can run on a CPU too, to see that a test itself is right.
"""

import os

import pytest
import torch

DEVICE = torch.device(os.environ.get("PANGU_GPU_TESTS", "cuda"))
ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA_ALONE = pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA has this")
