"""Every switch of `Execution`, alone and in pairs, switched on, off or over at a resume; and the memory layout after it."""

import itertools
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pangu.config import Execution, Recipe
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.training_levels import training_levels
from pangu.train.checkpoint import latest_checkpoint, restore
from pangu.train.eight_bits import decode
from pangu.train.loop import train_loop
from pangu.train.randomness import draw_batch
from pangu.train.setup import initial, prepared, start
from pangu.train.step import loss_per_sample
from pangu.train.world import World
from tests import subtests
from tests.train.rows import plain_timesteps, random_rows, smallest_recipe

Switches = frozenset[str]
Tensors = dict[str, torch.Tensor]
Whole = dict[Switches, tuple[Path, Tensors, Tensors]]

SWITCHES: dict[str, dict[str, object]] = {
    "precision": {"precision": "bf16"},
    "accumulate": {"accumulate": 2},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "background_checkpoints": {"background_checkpoints": True},
    "prefetch": {"prefetch": 0},
    "ema_device": {"ema_device": "host"},
    "ema_every": {"ema_every": 3},
    "moments_bf16": {"moments": "bf16"},
    "moments_int8": {"moments": "int8"},
}
"""All but `latents`, which belongs to the encoded dataset: another way of encoding is another dataset, and another run."""

NONE: Switches = frozenset()
ALONE = [frozenset({name}) for name in SWITCHES]
PAIRS = [frozenset(pair) for pair in itertools.combinations(SWITCHES, 2) if len({name[:7] for name in pair}) == 2]
DAILY = {*ALONE, *random.Random(0).sample(PAIRS, 10), NONE}
"""What `make test` tries; `make test-long` tries all."""
STEPS = 4


def execution_of(switches: Switches) -> Execution:
    return Execution(**{field: value for name in switches for field, value in SWITCHES[name].items()})


def recipe_of(switches: Switches) -> Recipe:
    """Four steps, and a checkpoint after the second."""
    return smallest_recipe(steps=STEPS, batch_size=2, checkpoint_every=2).model_copy(
        update={"execution": execution_of(switches)}
    )


def train(switches: Switches, folder: Path) -> Tensors:
    """Weights, means and moments at the end."""
    trained = train_loop("structure", recipe_of(switches), random_rows(4), "e", folder)
    assert trained.steps == STEPS
    found = latest_checkpoint(folder)
    assert found is not None
    return tensors_of(found[0])


def tensors_of(checkpoint: Path) -> Tensors:
    """What a checkpoint holds, FILE.NAME."""
    files = checkpoint.glob("*.safetensors")
    return {f"{path.stem}.{name}": value for path in files for name, value in load_file(path).items()}


def figures(tensors: Tensors) -> Tensors:
    """The same, with moments as float32 of one dimension, whatever they are kept in."""
    codes = [name for name, value in tensors.items() if value.dtype == torch.uint8]
    decoded = {name: decode(tensors[name], tensors[f"{name}_scale"], name.endswith("avg")) for name in codes}
    kept = {name: value for name, value in tensors.items() if not name.endswith("_scale")}
    return {name: value.float().flatten() for name, value in (kept | decoded).items()}


@pytest.fixture(scope="module", autouse=True)
def eight_bits_for_small_tensors() -> Iterator[None]:
    """The network of these tests has none of 4,096 weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pangu.train.moments.LEAST", 256)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_without_a_compiler() -> Iterator[None]:
    """Compiling takes minutes on a small machine; here the wrapped network runs as it is."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Of each set of switches the folder, what an uninterrupted run ends with, and what it has half-way."""

    class AsNeeded(Whole):
        def __missing__(self, switches: Switches) -> tuple[Path, Tensors, Tensors]:
            folder = tmp_path_factory.mktemp("whole")
            self[switches] = folder, train(switches, folder), tensors_of(folder / "step-000002")
            return self[switches]

    return AsNeeded()


def resumed(before: Switches, after: Switches, whole: Whole, folder: Path) -> Tensors:
    """What a run ends with that was killed behind step 2 and goes on with other switches."""
    shutil.copytree(whole[before][0] / "step-000002", folder / "step-000002")
    return train(after, folder)


def named(switches: Switches) -> str:
    return "+".join(sorted(switches)) or "none"


KEPT = [NONE, *ALONE, *PAIRS]
CHANGED = [
    *((NONE, each) for each in [*ALONE, *PAIRS]),
    *((each, NONE) for each in [*ALONE, *PAIRS]),
    *itertools.permutations(ALONE, 2),
]


def kept(switches: Switches, whole: Whole, folder: Path) -> None:
    """A run killed and resumed under the same switches ends with the same bits."""
    ours, theirs = resumed(switches, switches, whole, folder), whole[switches][1]
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@subtests.parametrize("switches", [case for case in KEPT if case in DAILY], ids=named)
def test_a_run_killed_and_resumed_under_the_same_switches_ends_with_the_same_bits(
    switches: Switches, whole: Whole, tmp_path: Path
) -> None:
    kept(switches, whole, tmp_path)


@pytest.mark.long
@subtests.parametrize("switches", [case for case in KEPT if case not in DAILY], ids=named)
def test_and_so_it_does_under_all_other_pairs(switches: Switches, whole: Whole, tmp_path: Path) -> None:
    kept(switches, whole, tmp_path)


def tolerance(switches: Switches, part: str) -> float:
    """Of the mean difference, relative to how far the last two steps went.

    bf16 rounds to 8 bits, and Adam makes whole steps of gradients that it turns round. Moments of fewer bits move the weights by
    a fiftieth of that. Sums in another order differ in the last bits of float32. Means that see every third step are others in
    the first four (test_averages.py has what they keep). All else computes the same numbers.
    """
    if "ema_every" in switches and part == "averages":
        return math.inf
    if "precision" in switches:
        return 0.2
    if switches & {"moments_bf16", "moments_int8"}:
        return 0.02
    return 1e-4 if switches & {"accumulate", "channels_last"} else 0.0


def changed(before: Switches, after: Switches, whole: Whole, folder: Path) -> None:
    """A switch changed at a resume changes nothing but rounding."""
    ours, theirs, halfway = map(figures, (resumed(before, after, whole, folder), *whole[NONE][1:]))
    for part in ("model", "averages", "optimizer"):
        names = [name for name in theirs if name.startswith(part)]
        apart, gone = (
            torch.cat([(theirs[name] - other[name]).abs() for name in names]).mean() for other in (ours, halfway)
        )
        assert float(apart / gone) <= tolerance(before | after, part), part


@pytest.mark.long
@subtests.parametrize(("before", "after"), [case for case in CHANGED if frozenset().union(*case) in DAILY], ids=named)
def test_a_switch_changed_at_a_resume_changes_nothing_but_rounding(
    before: Switches, after: Switches, whole: Whole, tmp_path: Path
) -> None:
    changed(before, after, whole, tmp_path)


@pytest.mark.long
@subtests.parametrize(
    ("before", "after"), [case for case in CHANGED if frozenset().union(*case) not in DAILY], ids=named
)
def test_nor_do_any_two(before: Switches, after: Switches, whole: Whole, tmp_path: Path) -> None:
    changed(before, after, whole, tmp_path)


@subtests.parametrize("written", [False, True], ids=["from_contiguous", "from_channels_last"])
@subtests.parametrize("read", [False, True], ids=["to_contiguous", "to_channels_last"])
def test_parameters_gradients_moments_and_means_have_equal_strides_after_a_restore(
    written: bool, read: bool, whole: Whole
) -> None:
    """A fused optimizer on a GPU refuses any other, and one on a CPU reads the wrong element."""
    source = whole[frozenset({"channels_last"}) if written else NONE][0]
    found = latest_checkpoint(source)
    assert found is not None
    recipe = recipe_of(frozenset({"channels_last"}) if read else NONE)
    network = initial(recipe, random_rows(4), "structure").train()
    prepared(network, recipe.execution, World())
    averages, optimizer = start(network, recipe)
    assert restore(*found, network, averages, optimizer)
    saved = tensors_of(found[0])
    parameters = list(network.parameters())
    rows = random_rows(4)
    timesteps = plain_timesteps(rows, TimeInterval(500, 1000))
    batch = draw_batch(rows, [0, 1], 0, 0, 0, timesteps, recipe.optimization)
    loss_per_sample(network, batch, training_levels(recipe.schedule)).sum().backward()
    means = list(averages.tensors().values())
    for number, parameter in enumerate(parameters):
        moments = [optimizer.state[parameter][name] for name in ("exp_avg", "exp_avg_sq")]
        strides = {
            tensor.stride() for tensor in (parameter, parameter.grad, *moments, means[number]) if tensor is not None
        }
        assert len(strides) == 1
        assert torch.equal(moments[0], saved[f"optimizer.{number}.exp_avg"])
        assert torch.equal(means[number], saved[f"averages.0.{number}"])
    convolution = network.conv_in.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last) == read
