"""Checkpoints of one generator: safetensors and JSON, hashed, and moved into place as a whole.

There is no generator state to keep: every random draw is a function of the step (`pangu.train.randomness`), and so is the
position in the data (`pangu.train.sampler`).
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from pangu.config import Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.errors import UserError
from pangu.models.lora import trained_parameters
from pangu.storage import read_json, sha256_of, write_json
from pangu.train.ema import Ema
from pangu.train.moments import CompactAdamW, converted
from pangu.train.sampler import RowOrder
from pangu.train.tensor_file import write_tensors
from pangu.train.world import World

KEEP = 2
FILES = ("model.safetensors", "averages.safetensors", "optimizer.safetensors")
GO_ON = "go on from there with another optimization, e.g. a lower lr_peak, by `pangu train --continue-run`"

log = logging.getLogger(__name__)


class CheckpointState(Frozen):
    """Everything but tensors: where the run stands, for whom, and the SHA-256 of each tensor file.

    contract: the interval and the hashes of schedule, autoencoder and text encoders that the weights are good for.
    skipped_steps: of the first `step` steps those that changed nothing, because loss or gradient norm was not finite.
    row_order: by which the run draws its rows, to its end; checkpoints of before there was a choice do not say it.
    """

    role: Role
    step: int
    row_order: RowOrder = Field("shuffled", exclude_if=lambda value: value == "shuffled")
    skipped_steps: int = Field(0, exclude_if=lambda count: not count)
    encode_id: str
    recipe: Recipe
    contract: GeneratorContract | None = None
    optimizer_groups: list[dict[str, Any]] = Field([])
    averages: list[dict[str, Any]] = Field([])
    files: dict[str, str] = Field({})


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is made of: the facts, and the tensors of each of `FILES` by name."""

    state: CheckpointState
    tensors: Mapping[str, Mapping[str, Tensor]]


def snapshot(state: CheckpointState, denoiser: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Where model, running means and optimizer stand now: the tensors themselves, no copies."""
    moments, groups = flatten_optimizer(optimizer)
    tensors = dict(zip(FILES, (trained_state(denoiser), ema.tensors(), moments), strict=True))
    facts = {"optimizer_groups": groups, "averages": ema.facts()}
    return Snapshot(state.model_copy(update=facts), tensors)


def save_checkpoint(folder: Path, taken: Snapshot) -> Path:
    """Write `step-NNNNNN` under `folder`; a reader finds all of it or nothing. Older ones than the last two go.

    Raises:
        UserError: a tensor is not finite, or the disk is full; the checkpoints that are there stay whole.
    """
    state = taken.state
    try:
        return _save(folder, taken)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Half a checkpoint only keeps the disk full.
        shutil.rmtree(temporary_folder(folder, state.step), ignore_errors=True)
        raise UserError(
            f"No space is left for the checkpoint of step {state.step} in {folder} ({_kept(folder)}); free some and run again."
        ) from error


def _kept(folder: Path) -> str:
    kept = latest_checkpoint(folder)
    return f"step {kept[1].step} is kept" if kept else "none was written before"


def _save(folder: Path, taken: Snapshot) -> Path:
    state = taken.state
    final = folder / f"step-{state.step:06d}"
    temporary = temporary_folder(folder, state.step)
    shutil.rmtree(temporary, ignore_errors=True)
    for name, values in taken.tensors.items():
        if not all_finite(values):
            raise UserError(
                f"After step {state.step} of {state.role} a tensor of {name} is not finite, so no checkpoint was written "
                f"({_kept(folder)}); {GO_ON}."
            )
    hashes = {
        name: write_tensors(temporary / name, {key: value.cpu() for key, value in values.items()})
        for name, values in taken.tensors.items()
    }
    whole = state.model_copy(update={"files": hashes})
    write_json(temporary / "state.json", whole.model_dump(mode="json"))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def temporary_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is whole."""
    return folder / f".step-{step:06d}.tmp"


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """No tensor holds NaN or infinity; asks their device once."""
    found = [tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()]
    return not found or bool(torch.stack(found).all())


def latest_checkpoint(folder: Path) -> tuple[Path, CheckpointState] | None:
    """The newest whole checkpoint; torn ones (a missing file, a wrong hash) are passed over."""
    return next(whole_checkpoints(folder), None)


def whole_checkpoints(folder: Path) -> Iterator[tuple[Path, CheckpointState]]:
    """The whole checkpoints, the newest first."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = CheckpointState.model_validate(read_json(path / "state.json"))
        except (OSError, json.JSONDecodeError, ValidationError):
            continue
        files = {path / name: expected for name, expected in state.files.items()}
        if all(file.is_file() and sha256_of(file) == expected for file, expected in files.items()):
            yield path, state


def check_same_run(
    state: CheckpointState, role: Role, encode_id: str, recipe: Recipe, earlier: Collection[str] = ()
) -> None:
    """Raises UserError if a checkpoint belongs to another role, dataset or recipe.

    earlier: learning digests of recipes that this run had before it was given another optimization.
    """
    for name, ours, theirs in (
        ("role", role, state.role),
        ("encoded dataset", encode_id, state.encode_id),
        ("recipe", recipe.learning_digest(), state.recipe.learning_digest()),
    ):
        if ours != theirs and not (name == "recipe" and theirs in earlier):
            raise UserError(f"The checkpoint is of {name} {theirs}, but this run is of {ours}; use another run name.")


def trained_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name: all of them, or those of the adapters, whose base the recipe names."""
    state = denoiser.state_dict()
    if len(trained_parameters(denoiser)) == sum(1 for _ in denoiser.parameters()):
        return dict(state)
    return {name: state[name] for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def resume(
    folder: Path,
    check: Callable[[CheckpointState], None],
    denoiser: nn.Module,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    world: World | None = None,
) -> CheckpointState | None:
    """Put everything back to the newest whole and finite checkpoint, if there is one that `check` does not refuse.

    Of several workers the first alone reads the files; the others get what it read.

    Raises:
        UserError: what `check` raises, or there are whole checkpoints but none is finite.
    """
    newest, found, world = None, whole_checkpoints(folder), world or World()
    while (one := world.agreed(lambda: next(found, None))) is not None:
        path, state = one
        check(state)
        newest = newest or state
        if restore(path, state, denoiser, ema, optimizer, world):
            return state
        log.warning("%s holds values that are not finite, and is passed over.", path)
    if newest is not None:
        raise UserError(
            f"No checkpoint in {folder} is finite (the newest is of step {newest.step}); remove the folder to begin again."
        )
    return None


def restore(
    path: Path,
    state: CheckpointState,
    denoiser: nn.Module,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    world: World | None = None,
) -> bool:
    """Put model, running means and optimizer back to exactly where they were, in the memory layout that they have now.

    False, and something may be missing, if a tensor is not finite.
    """

    def put_weights(tensors: dict[str, Tensor]) -> None:
        denoiser.load_state_dict(tensors, strict=tensors.keys() == denoiser.state_dict().keys())

    def put_means(tensors: dict[str, Tensor]) -> None:
        ema.restore(tensors, state.averages)

    def put_moments(tensors: dict[str, Tensor]) -> None:
        restore_optimizer(optimizer, tensors)

    for name, put in zip(FILES, (put_weights, put_means, put_moments), strict=True):
        # One at a time: each may be as large as the memory that is left.
        tensors = (world or World()).shared(lambda: load_file(path / name))  # noqa: B023 (called at once)
        if not all_finite(tensors):
            return False
        put(tensors)
    return True


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The state that `flatten_optimizer` gave, each moment with the strides of its parameter; the options stay as they are.

    A fused optimizer walks parameter and moments in the order of their memory: on a GPU it refuses other strides, on a CPU it
    takes them for the parameter's. Moments of another form (`execution.moments`) are rounded to the nearest of this one's.
    """
    states = unflatten_optimizer(tensors)
    if isinstance(optimizer, CompactAdamW):
        optimizer.restore(states)
        return
    [group] = optimizer.param_groups
    full = {number: converted(state, group["params"][number], "fp32") for number, state in states.items()}
    optimizer.load_state_dict({"state": full, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """State as named tensors ('INDEX.NAME') and plain groups, so that no pickle is needed."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, json.loads(json.dumps(state["param_groups"]))


def unflatten_optimizer(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors of `flatten_optimizer`, by the number of the parameter and their name."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
