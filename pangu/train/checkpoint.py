"""Checkpoints of one generator: safetensors and JSON, hashed, and moved into place as a whole.

There is no generator state to keep: every random draw is a function of the step (`pangu.train.draws`), and so is the
position in the data (`pangu.train.ledger`). Knows nothing of Ray.
"""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pangu.config import Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.models.lora import trained_parameters
from pangu.storage import read_json, write_atomically, write_json
from pangu.train.averages import Averages

KEEP = 2


class CheckpointState(Frozen):
    """Everything but tensors: where the run stands, for whom, and the SHA-256 of each tensor file.

    contract: the interval and the hashes of schedule, autoencoder and text encoders that the weights are good for.
    """

    role: Role
    step: int
    encode_id: str
    recipe: Recipe
    contract: GeneratorContract | None = None
    optimizer_groups: list[dict[str, Any]] = Field([])
    averages: list[dict[str, Any]] = Field([])
    files: dict[str, str] = Field({})


def save_checkpoint(
    folder: Path, state: CheckpointState, denoiser: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer
) -> Path:
    """Write `step-NNNNNN` under `folder`; a reader finds all of it or nothing. Older ones than the last two go.

    Raises:
        UserError: the disk is full; the checkpoints that are there stay whole.
    """
    try:
        return _save(folder, state, denoiser, averages, optimizer)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Half a checkpoint only keeps the disk full.
        shutil.rmtree(temporary_folder(folder, state.step), ignore_errors=True)
        kept = latest_checkpoint(folder)
        remains = f"step {kept[1].step} is kept" if kept else "none was written before"
        raise UserError(
            f"No space is left for the checkpoint of step {state.step} in {folder} ({remains}); free some and run again."
        ) from error


def _save(
    folder: Path, state: CheckpointState, denoiser: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer
) -> Path:
    final = folder / f"step-{state.step:06d}"
    temporary = temporary_folder(folder, state.step)
    shutil.rmtree(temporary, ignore_errors=True)
    optimizer_tensors, groups = flatten_optimizer(optimizer)
    tensors = {
        "model.safetensors": trained_state(denoiser),
        "averages.safetensors": averages.tensors(),
        "optimizer.safetensors": optimizer_tensors,
    }
    hashes = {}
    for name, values in tensors.items():
        data = save({key: value.detach().cpu().contiguous() for key, value in values.items()})
        write_atomically(temporary / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    whole = state.model_copy(update={"optimizer_groups": groups, "averages": averages.facts(), "files": hashes})
    write_json(temporary / "state.json", whole.model_dump(mode="json"))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def temporary_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is whole."""
    return folder / f".step-{step:06d}.tmp"


def latest_checkpoint(folder: Path) -> tuple[Path, CheckpointState] | None:
    """The newest whole checkpoint; torn ones (a missing file, a wrong hash) are passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = CheckpointState.model_validate(read_json(path / "state.json"))
        except (OSError, json.JSONDecodeError, ValidationError):
            continue
        if all(_sha256(path / name) == expected for name, expected in state.files.items()):
            return path, state
    return None


def check_same_run(state: CheckpointState, role: Role, encode_id: str, recipe: Recipe) -> None:
    """Raises UserError if a checkpoint belongs to another role, dataset or recipe."""
    for name, ours, theirs in (
        ("role", role, state.role),
        ("encoded dataset", encode_id, state.encode_id),
        ("recipe", recipe.learning_digest(), state.recipe.learning_digest()),
    ):
        if ours != theirs:
            raise UserError(f"The checkpoint is of {name} {theirs}, but this run is of {ours}; use another run name.")


def trained_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name: all of them, or those of the adapters, whose base the recipe names."""
    state = denoiser.state_dict()
    if len(trained_parameters(denoiser)) == sum(1 for _ in denoiser.parameters()):
        return dict(state)
    return {name: state[name] for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def restore(
    path: Path, state: CheckpointState, denoiser: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer
) -> None:
    """Put model, running means and optimizer back to exactly where they were."""
    weights = load_file(path / "model.safetensors")
    denoiser.load_state_dict(weights, strict=weights.keys() == denoiser.state_dict().keys())
    averages.restore(load_file(path / "averages.safetensors"), state.averages)
    optimizer.load_state_dict(unflatten_optimizer(load_file(path / "optimizer.safetensors"), state.optimizer_groups))


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """State as named tensors ('INDEX.NAME') and plain groups, so that no pickle is needed."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, json.loads(json.dumps(state["param_groups"]))


def unflatten_optimizer(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
