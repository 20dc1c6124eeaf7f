"""Where networks compute. Imports torch when asked, so that processes that only pass requests on need not."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> "torch.device":
    """The GPU that this process may use, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_gib() -> float | None:
    """Memory of the GPU that this process may use, GiB; None without one."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None


def dtype_on(device: "torch.device") -> "torch.dtype":
    """bf16 on GPUs that compute in it, else float32: CPUs are slower in bf16."""
    import torch

    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float32
