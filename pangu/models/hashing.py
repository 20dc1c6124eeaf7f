"""Content hashes of networks: two models with one hash give the same numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pangu.models.inner_tensors import inner_tensors


def weights_hash(module: nn.Module, config: dict[str, Any]) -> str:
    """`tensors_hash` of the architecture and every weight of a network."""
    return tensors_hash(module.state_dict(), config)


def tensors_hash(tensors: Mapping[str, torch.Tensor], config: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 over a configuration and every tensor (name, dtype, shape, bytes)."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    stored = (part for name, whole in tensors.items() for part in inner_tensors(whole, name))
    for name, tensor in sorted(stored, key=lambda part: part[0]):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def architecture(config: Any) -> dict[str, Any]:
    """The part of a diffusers or transformers configuration that shapes the numbers: no paths, versions or dtypes."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    unrelated = {"dtype", "torch_dtype", "transformers_version", "architectures", "quantization_config"}
    return {key: value for key, value in values.items() if not key.startswith("_") and key not in unrelated}
