"""Loading a pair folder of which some halves are quantised."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pangu.models.quantised import check_kind, loading
from pangu.models.sources import read_config


@contextmanager
def quantised_halves(place: Any, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Within it, diffusers' `from_pretrained` of the pair at `place` takes what it yields: the arguments, and what halves need.

    A folder alone is looked at: diffusers fetches what lies on a hub.

    Raises:
        UserError: a half that is loaded is quantised in a way that this device or installation lacks.
    """
    index = (read_config(str(place), "model_index.json") if Path(place).is_dir() else None) or {}
    kinds = {
        contract["quantised"]
        for role, contract in (index.get("contracts") or {}).items()
        if contract.get("quantised") and arguments.get(role, True) is not None
    }
    for kind in sorted(kinds):
        check_kind(kind)
    # Without a precision diffusers takes bf16 for all that is not quantised, which a CPU is slow in.
    known = {"torch_dtype": torch.float32} if kinds and not {"torch_dtype", "dtype"} & arguments.keys() else {}
    with loading(next(iter(kinds), None)):
        yield {**known, **arguments}
