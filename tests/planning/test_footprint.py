"""What a plan says of memory: bytes that are there exactly, passes as torch's own allocator sees them, refusals that help."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pangu.cli.planning import plan
from pangu.config import DenoiserConfig, Execution, LoraConfig, Recipe
from pangu.diffusion.noise import Prediction
from pangu.diffusion.training_levels import DiscreteLevels
from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser
from pangu.models.lora import add_lora
from pangu.planning.activations import LOWERED, RAISED, AsOnCuda, step_bytes
from pangu.planning.footprint import GIB, Footprint, check_fits, footprint, footprints
from pangu.planning.operations import Shapes
from pangu.planning.table import memory_table
from pangu.recipes import recipe as named
from pangu.storage import Home
from pangu.train.losses import objective_of
from pangu.train.randomness import Batch
from pangu.train.setup import start
from pangu.train.step import loss_per_sample, train_step
from pangu.train.step_timer import StepTimer
from tests import subtests
from tests.planning.test_plan import FIGURES

checks = subtests.Checks()

SMALL = named("demo")
CHANNELS = (lambda shapes: (shapes.latent_channels, shapes.tokens, shapes.pooled))(Shapes(SMALL))


def with_execution(recipe: Recipe, **execution: object) -> Recipe:
    return recipe.model_copy(update={"execution": recipe.execution.model_copy(update=execution)})


def batch(images: int, side: int, device: str) -> Batch:
    latent, context, pooled = CHANNELS
    latents = torch.randn(images, latent, side // 8, side // 8, device=device)
    return Batch(
        latents_bchw=latents,
        noise_bchw=latents.clone(),
        tokens_bsc=torch.randn(images, SMALL.max_tokens, context, device=device),
        pooled_bp=torch.randn(images, pooled, device=device),
        timestep_b=torch.zeros(images, dtype=torch.int64, device=device),
        preset=0,
    )


def network(device: str = "cpu", of: Recipe = SMALL) -> torch.nn.Module:
    with torch.device(device):
        return build_denoiser(of.denoiser, *CHANNELS).train()


@subtests.parametrize("moments", ["fp32", "bf16", "int8"])
@subtests.parametrize("ema_device", ["device", "host"])
@subtests.parametrize("lora", [None, LoraConfig(rank=4)], ids=["whole", "lora"])
def test_weights_gradients_moments_and_means_are_predicted_to_the_byte(
    moments: str, ema_device: str, lora: LoraConfig | None
) -> None:
    recipe = with_execution(named("tiny"), moments=moments, ema_device=ema_device).model_copy(update={"lora": lora})
    recipe = recipe.model_copy(
        update={"optimization": recipe.optimization.model_copy(update={"ema_decays": (0.9, 0.5)})}
    )
    found = footprint(Shapes(recipe), "structure")
    model = network(of=recipe)
    if lora is not None:
        add_lora(model, lora, 0)
    averages, optimizer = start(model, recipe)
    train_step(
        model, optimizer, [batch(1, 64, "cpu")], 1, objective_of(recipe.schedule, recipe.optimization), recipe.optimization,
        recipe.execution, StepTimer(torch.device("cpu"), 10**6),
    )  # fmt: skip
    averages.step()
    parameters = list(model.parameters())
    assert found.weights == sum(one.nbytes for one in [*parameters, *model.buffers()])
    assert found.gradients == sum(one.grad.nbytes for one in parameters if one.grad is not None)
    assert found.moments == sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    means = sum(value.nbytes for value in averages.tensors().values())
    assert (found.means, found.host) == ((means, 0) if ema_device == "device" else (0, means + found.gradients))


@subtests.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_saves(bf16: bool) -> None:
    predicted = step_bytes(network("meta"), batch(16, 192, "meta"), bf16, False, False).kept
    model, saved = network(), {}
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), AsOnCuda(bf16):
        levels = DiscreteLevels(Prediction("epsilon"), torch.full((1000,), 0.5))
        loss = loss_per_sample(model, batch(16, 192, "cpu"), levels).mean()
    assert loss.isfinite()
    assert predicted == pytest.approx(sum(saved.values()), rel=0.01)


@pytest.mark.long
@subtests.parametrize("recomputes", [False, True], ids=["kept", "recomputed"])
@subtests.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_peak_of_a_pass_is_near_what_the_allocator_sees(bf16: bool, recomputes: bool) -> None:
    """On a CPU, whose kernels take a little for themselves, by torch's own profiler."""
    predicted = step_bytes(network("meta"), batch(16, 192, "meta"), bf16, recomputes, True).peak
    model = network()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        step_bytes(model, batch(16, 192, "cpu"), bf16, recomputes, True)
    kineto = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((event.start_ns(), event.nbytes()) for event in kineto if event.name() == "[memory]")
    now = peak = 0
    for _, taken in events:
        now += taken
        peak = max(peak, now)
    assert 0.88 * peak < predicted < 1.01 * peak


def test_the_casts_are_those_of_cudas_autocast() -> None:
    """Torch's own kernels for them, on tensors that only say that they are on a GPU."""
    calls = {
        F.linear: lambda new: F.linear(new(2, 8), new(4, 8)),
        F.conv2d: lambda new: F.conv2d(new(2, 4, 8, 8), new(4, 4, 3, 3)),
        F.conv3d: lambda new: F.conv3d(new(2, 4, 2, 8, 8), new(4, 4, 1, 3, 3)),
        F.rms_norm: lambda new: F.rms_norm(new(2, 8), (8,)),
        torch.matmul: lambda new: torch.matmul(new(8, 8), new(8, 8)),
        torch.bmm: lambda new: torch.bmm(new(2, 8, 8), new(2, 8, 8)),
        torch.baddbmm: lambda new: torch.baddbmm(new(2, 8, 8), new(2, 8, 8), new(2, 8, 8)),
        F.scaled_dot_product_attention: lambda new: F.scaled_dot_product_attention(
            *(new(2, 2, 8, 8) for _ in range(3))
        ),
        F.layer_norm: lambda new: F.layer_norm(new(2, 8), (8,)),
        F.group_norm: lambda new: F.group_norm(new(2, 4, 8, 8), 2),
        F.softmax: lambda new: F.softmax(new(2, 8), -1),
        torch.softmax: lambda new: torch.softmax(new(2, 8), -1),
        F.silu: lambda new: F.silu(new(2, 8)),
        F.gelu: lambda new: F.gelu(new(2, 8)),
        torch.add: lambda new: new(2, 8) + new(2, 8),
    }
    assert calls.keys() >= LOWERED | RAISED

    def types(device: str, dtype: torch.dtype) -> dict[object, torch.dtype]:
        with torch.no_grad():
            new = partial(torch.empty, device=device, dtype=dtype)
            return {function: call(new).dtype for function, call in calls.items()}

    for dtype in (torch.float32, torch.bfloat16):
        with FakeTensorMode():
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            try:
                theirs = types("cuda", dtype)
            finally:
                torch.set_autocast_enabled("cuda", False)
        with AsOnCuda(True):
            assert types("meta", dtype) == theirs


@checks
def the_one_step_measured_on_a_gpu_is_predicted_within_a_twentieth() -> None:
    """65 GiB: 1.31 B parameters, 512 px, 32 images, fp32 weights, bf16 autocast, no means, on an H100."""
    whole = named("pangu_draw_5b")
    shape: DenoiserConfig = whole.denoiser.model_copy(update={"transformer_layers_per_block": (1, 2, 4)})
    job = whole.texture.model_copy(update={"batch_size": 32, "denoiser": shape})
    recipe = whole.model_copy(
        update={"workers": 1, "execution": Execution(precision="bf16"), "jobs": {**whole.jobs, "texture": job}}
    )
    found = footprint(Shapes(recipe), "texture")
    assert found.weights / 4 == pytest.approx(1.31e9, rel=0.01)
    assert (found.peak - found.means) / GIB == pytest.approx(65, rel=0.05)


@pytest.mark.long
def test_a_half_of_the_papers_model_trains_on_one_card_of_80_gb() -> None:
    recipe = named("pangu_draw_5b")
    found = footprints(recipe)
    assert found["structure"].side == 1024 and found["structure"].images >= 4
    assert all(one.peak / GIB < 75 for one in found.values())
    check_fits(recipe, found, 75)


@checks
def switches_take_what_they_say() -> None:
    shapes = Shapes(SMALL.model_copy(update={"workers": 2}))

    def peak(**execution: object) -> Footprint:
        return footprint(shapes, "structure", SMALL.execution.model_copy(update=execution))

    plain = peak()
    assert plain.peak - peak(ema_device="host").peak == plain.means
    assert 0.45 < peak(moments="bf16").moments / plain.moments < 0.55
    assert peak(accumulate=4).activations < 0.4 * plain.activations
    assert peak(gradient_checkpointing=True).activations < 0.5 * plain.activations
    assert peak(precision="bf16").activations < plain.activations


@subtests.parametrize(
    ("leaves", "advice"),
    [
        ({"gradient_checkpointing": True}, "set execution.gradient_checkpointing to true."),
        ({"accumulate": 4}, "set execution.accumulate to 4, which learns the same from 1 at once."),
        (
            {"gradient_checkpointing": True, "accumulate": 4, "precision": "bf16"},
            "set execution.gradient_checkpointing to true, execution.accumulate to 4 and execution.precision to bf16, which",
        ),
        (None, "no switch of execution makes it fit: take more workers"),
    ],
)
@pytest.mark.long
def test_a_job_that_does_not_fit_is_refused_with_the_first_switch_that_is_enough(
    leaves: dict[str, object] | None, advice: str
) -> None:
    tiny = named("tiny")
    job = tiny.structure.model_copy(update={"batch_size": 8, "resolution": 256})
    recipe = tiny.model_copy(update={"workers": 2, "jobs": {**tiny.jobs, "structure": job}})
    shapes = Shapes(recipe)
    found = {"structure": footprint(shapes, "structure")}
    enough = footprint(shapes, "structure", recipe.execution.model_copy(update=leaves)).peak if leaves else 1 * GIB
    with pytest.raises(UserError) as refused:
        check_fits(recipe, found, enough / GIB)  # type: ignore[arg-type]
    sentence = str(refused.value)
    assert sentence.startswith("A training step of structure with 4 images of 256 px at once would take ")
    assert advice in sentence and "\n" not in sentence
    check_fits(recipe, found, found["structure"].peak / GIB)  # type: ignore[arg-type]


@checks
def the_table_has_every_job_and_what_it_adds_up_to() -> None:
    recipe = with_execution(SMALL.model_copy(update={"workers": 2}), ema_device="host")
    found = footprints(recipe)
    lines = memory_table(found)
    assert lines[2].startswith("| train-structure | 16 of 96 px |") and len(lines) == 4
    for one in found.values():
        assert one.peak == one.weights + one.gradients + one.moments + one.means + one.activations + one.margin


@pytest.mark.long
def test_the_command_refuses_before_anything_is_started(home: Home, tmp_path: Path) -> None:
    FIGURES.save(home)
    cluster = tmp_path / "c.yaml"
    cluster.write_text("cluster: {name: x, cores: 1, devices: 1, device: {name: d, peak_tflops: 1, memory_gib: 0.5}}")
    with pytest.raises(UserError, match=r"of a device that has 0\.5; no switch of execution makes it fit"):
        plan("openmoji", cluster, "tiny")
    with pytest.raises(UserError, match="How many rows"):  # the next thing that a plan asks for
        plan("openmoji", cluster, "tiny", memory_gib=8)


test_footprint = checks.test()
