"""The other half of the pair while it trains too: its newest running mean, read from its run folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load
from torch import Tensor

from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import EncodedManifest
from pangu.models.lora import trained_parameters
from pangu.pipelines.assemble import load_generator
from pangu.storage import read_json
from pangu.train.checkpoint import CheckpointState, all_finite
from pangu.train.job import TrainJob
from pangu.train.starting_weights import starting_network

MEANS = "averages.safetensors"


def newest_partner(job: TrainJob) -> tuple[Any, GeneratorContract, int] | None:
    """Network, contract and step of what the run `job` has got to: its newest checkpoint, or its finished generator.

    None while it has neither. Only the running means are read and checked, not the whole checkpoint.
    """
    for path in sorted((job.run_folder / "checkpoints").glob("step-*"), reverse=True):
        found = _read_means(path)
        if found is not None:
            state, means = found
            contract = state.contract or _contract(job)
            return with_means(_start(job, contract), means), contract, state.step
    folder = job.run_folder / "generator"
    if not (folder / "config.json").is_file():
        return None
    network, contract = load_generator(folder)
    return network, contract, contract.trained_steps


def with_means(denoiser: Any, means: dict[str, Tensor]) -> Any:
    """The network with the first running mean in the place of what is trained in it, for sampling."""
    with torch.no_grad():
        for number, parameter in enumerate(trained_parameters(denoiser)):
            parameter.copy_(means[f"0.{number}"])
    return denoiser.eval().requires_grad_(False)


def _read_means(path: Path) -> tuple[CheckpointState, dict[str, Tensor]] | None:
    """State and means of a checkpoint; None if it is torn or not finite, or was pruned while it was read."""
    try:
        state = CheckpointState.model_validate(read_json(path / "state.json"))
        data = (path / MEANS).read_bytes()
    except (OSError, json.JSONDecodeError, ValidationError):
        return None
    if hashlib.sha256(data).hexdigest() != state.files.get(MEANS):
        return None
    means = load(data)
    return (state, means) if all_finite(means) else None


def _contract(job: TrainJob) -> GeneratorContract:
    return EncodedManifest.load(job.encoded).encoders.contract(job.recipe, job.role)


def _start(job: TrainJob, contract: GeneratorContract) -> Any:
    """The network of that run at step 0, whose trained weights are then replaced."""
    return starting_network(job.run_folder, job.recipe, job.role, contract, EncodedManifest.load(job.encoded).encoders)
