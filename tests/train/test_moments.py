"""Moments in fewer bits: what a form keeps, how it is rounded, and that skipping and converting do no harm."""

import pytest
import torch
from torch import Tensor, nn

from pangu.train.checkpoint import flatten_optimizer, restore_optimizer
from pangu.train.eight_bits import BLOCK, decode, encode, levels
from pangu.train.moments import AT_ONCE, CompactAdamW, Form, chunked, rounded
from pangu.train.step import step_unless
from tests import subtests

FORMS: tuple[Form, ...] = ("bf16", "int8")
CPU = torch.device("cpu")


def weights() -> list[nn.Parameter]:
    """A matrix that 8 bits take, a small vector that they do not, and one that gets no gradient."""
    generator = torch.Generator().manual_seed(1)
    shapes = (64, 128), (30,), (5, 5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters[:2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** (-step % 4)


def compact(parameters: list[nn.Parameter], form: Form) -> CompactAdamW:
    return CompactAdamW(parameters, form, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)


def plain(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def run(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range, skipped: float = 0.0) -> None:
    for step in steps:
        gradients(parameters, step)
        if isinstance(optimizer, CompactAdamW):
            optimizer.rounding_seed = step
        step_unless(torch.tensor(skipped), optimizer)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def test_the_first_step_is_that_of_float32_and_later_ones_stay_near() -> None:
    theirs = weights()
    run(plain(theirs), theirs, range(1))
    first = [one.detach().clone() for one in theirs]
    for form in FORMS:
        ours, reference = weights(), weights()
        optimizer, full = compact(ours, form), plain(reference)
        run(optimizer, ours, range(1))
        assert all(torch.equal(one, other) for one, other in zip(ours, first, strict=True))
        run(full, reference, range(20))
        run(optimizer, ours, range(1, 20))
        gone, apart = ((reference[0] - other[0]).detach().abs().mean() for other in (weights(), ours))
        assert 0 < float(apart / gone) < 0.05
        assert torch.equal(ours[2], weights()[2])  # no gradient


@subtests.parametrize("form", FORMS)
def test_a_skipped_step_changes_no_bit(form: Form) -> None:
    parameters = weights()
    optimizer = compact(parameters, form)
    run(optimizer, parameters, range(3))
    before, kept = copied(flatten_optimizer(optimizer)[0]), [one.detach().clone() for one in parameters]
    run(optimizer, parameters, range(3, 5), skipped=1.0)
    after = flatten_optimizer(optimizer)[0]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(torch.equal(one, other) for one, other in zip(parameters, kept, strict=True))


@subtests.parametrize(("form", "per_weight"), [("bf16", 4.0), ("int8", 2.0 + 8 / BLOCK)])
def test_a_form_takes_the_bytes_that_it_says(form: Form, per_weight: float) -> None:
    parameters = [nn.Parameter(torch.zeros(64, 128))]
    optimizer = compact(parameters, form)
    taken = {name: value for name, value in flatten_optimizer(optimizer)[0].items() if name != "0.step"}
    assert sum(value.nbytes for value in taken.values()) == per_weight * 64 * 128
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in taken.values()}
    assert sum(storages.values()) == per_weight * 64 * 128


@subtests.parametrize("before", [*FORMS, "fp32"])
@subtests.parametrize("after", [*FORMS, "fp32"])
def test_moments_of_another_form_are_rounded_to_nearest_and_equal_ones_kept(before: Form, after: Form) -> None:
    def made(form: Form, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return plain(parameters) if form == "fp32" else compact(parameters, form)

    parameters = weights()
    source = made(before, parameters)
    run(source, parameters, range(3))
    saved = copied(flatten_optimizer(source)[0])
    target, again = made(after, parameters), made(before, parameters)
    restore_optimizer(target, copied(saved))
    there = copied(flatten_optimizer(target)[0])
    assert float(there["0.step"]) == 3
    if before == after:
        assert [name for name in saved if not torch.equal(saved[name], there[name])] == []
    restore_optimizer(again, there)
    back = flatten_optimizer(again)[0]
    if after == "fp32" or before == after:
        assert [name for name in saved if not torch.equal(saved[name], back[name])] == []


def test_rounding_at_random_has_no_bias_keeps_what_is_exact_and_follows_its_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.full((100_000,), -1.0 - 2**-10)  # an eighth of the way from -1 to the next bf16
    once = rounded(value, generator)
    assert {float(one) for one in once.unique()} == {-1.0, -1.0 - 2**-7}
    assert float(once.float().mean()) == pytest.approx(-1.0 - 2**-10, abs=3e-5)
    exact = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(rounded(exact.float(), generator), exact)
    assert torch.equal(rounded(value, torch.Generator().manual_seed(0)), once)


@subtests.parametrize("signed", [True, False])
def test_eight_bits_err_by_a_share_of_the_number_and_are_read_and_written_without_a_change(signed: bool) -> None:
    values = levels(signed, CPU)
    assert len(values) == (255 if signed else 256) and bool((values.diff() > 0).all())
    drawn = torch.randn(8 * BLOCK, generator=torch.Generator().manual_seed(0)) * 1e-6
    drawn[:BLOCK] = 0
    drawn = drawn if signed else drawn.square()
    codes, scale = encode(drawn, signed)
    kept = decode(codes, scale, signed)
    assert float((kept - drawn).abs().max() / drawn.abs().max()) < 0.03
    assert torch.equal(kept[:BLOCK], drawn[:BLOCK])
    again, same = encode(kept, signed)
    assert torch.equal(again, codes) and torch.equal(same, scale)


def test_chunks_hold_every_parameter_once_and_stay_small() -> None:
    with torch.device("meta"):
        parameters = [nn.Parameter(torch.empty(size)) for size in (AT_ONCE // 2, 7, AT_ONCE // 2, 2 * AT_ONCE, 512)]
    for form in FORMS:
        chunks = list(chunked(parameters, form))
        assert sorted(id(one) for _, chunk in chunks for one in chunk) == sorted(map(id, parameters))
        assert all(len(chunk) == 1 or sum(one.numel() for one in chunk) <= AT_ONCE for _, chunk in chunks)
    assert {of: [one.numel() for one in chunk] for of, chunk in chunked(parameters, "int8")}["fp32"] == [7, 512]
