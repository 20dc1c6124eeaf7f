"""A pair whose halves predict different things shares calls as any other: rows go by network, each with its own timestep."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pangu.pipelines.assemble import assemble_pair, untrained_pair
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import student_of, tiny
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import Job, ReleaseRouting
from pangu.serve.inference.parts import load_unchecked, release_of
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import StepBatcher
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings
from tests import subtests
from tests.models.adapter_files import ATTENTION, random_adapter, spelled
from tests.pipelines.exact import EPSILON, FLOW, contracts_of, gaussian, joined
from tests.pipelines.transformers import generator, written_experts, written_pair
from tests.serve.api.test_image_routes import client, edit, file_of, pixels
from tests.serve.inference.test_steps import begun
from tests.serve.local import serving

WRITTEN = {"three": written_experts, "two": lambda folder: written_pair("flow", folder)}


async def drawn(batcher: StepBatcher, pair: PanGuDrawPipeline, start: Trajectory) -> Tensor:
    for role in ("structure", "texture"):
        run = await batcher.run(half(pair, role, start), owned_by(pair, role))
        start = run.state.trajectory
    assert start.finished
    return start.latents_bchw


def test_a_mixed_pair_is_batched_by_network_and_draws_what_its_pipeline_draws() -> None:
    usual = untrained_pair(tiny())
    nets = gaussian(FLOW, usual.structure), gaussian(EPSILON, usual.structure)
    pair = joined(usual, list(nets), contracts_of(usual, (FLOW, 500, 1000), (EPSILON, 0, 354)))
    steps = {1: 6, 2: 9, 3: 6}
    alone = [pair.finish(begun(pair, seed, count)).latents_bchw for seed, count in steps.items()]
    rows: list[list[int]] = [[], []]
    for own, net in zip(rows, nets, strict=True):
        net.register_forward_pre_hook(lambda _, given, own=own: own.append(len(given[0])))
    worker = Worker(threads=1)

    async def together() -> list[Tensor]:
        batcher = StepBatcher(worker)
        return list(await asyncio.gather(*(drawn(batcher, pair, begun(pair, *each)) for each in steps.items())))

    found = asyncio.run(together())
    worker.close()
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    # Guided requests have two rows each; some calls hold several requests, at timesteps of their own.
    assert all(max(own) > 2 and sum(own) % 2 == 0 for own in rows)
    assert sum(map(sum, rows)) == 2 * sum(steps.values())


@pytest.mark.long
@subtests.parametrize("kind", ["flow", "mixed"])
def test_transformers_are_served_and_company_changes_no_picture(kind: str, tmp_path: Path) -> None:
    """Over HTTP: alone, together, on the way, from the cache, from another number of steps on, and from an image."""
    asked: dict[str, Any] = {"num_inference_steps": 8}
    prompts = [f"fox {seed}" for seed in range(4)]
    folder = written_pair(kind, tmp_path)
    with serving(folder, max_in_flight=16, cache_bytes=0) as server:
        alone = [file_of(server.draw(prompt, seed=seed, **asked)) for seed, prompt in enumerate(prompts)]
        assert all(pixels(file).shape == (96, 96, 3) and pixels(file).std() > 1 for file in alone)
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda seed: server.draw(prompts[seed], seed=seed, **asked), range(4)))
        for one, answer in zip(alone, together, strict=True):
            assert np.abs(pixels(one) - pixels(file_of(answer))).max() <= 1
            assert sum(answer.json()["steps"].values()) == 8 and min(answer.json()["steps"].values()) > 0
    pair = PanGuDrawPipeline.from_pretrained(folder)
    pair.set_progress_bar_config(disable=True)
    ours = pair(prompts[1], generator=torch.Generator().manual_seed(1), num_inference_steps=8, output_type="np").images[
        0
    ]
    assert np.abs(pixels(alone[1]) / 255 - ours).max() < 0.02
    with serving(folder, max_in_flight=16, cache_bytes=1 << 26) as server:
        first, again = (server.draw(prompts[0], seed=0, **asked) for _ in range(2))
        assert (first.json()["structure_cached"], again.json()["structure_cached"]) == (False, True)
        assert file_of(first) == file_of(again)
        assert np.abs(pixels(file_of(first)) - pixels(alone[0])).max() <= 1
        extra = {"seed": 3} | asked
        events = client(server).images.generate(
            model="pangu-pair", prompt="a lemon", stream=True, partial_images=3, extra_body=extra
        )
        assert [event.type.rsplit(".")[-1] for event in events] == ["partial_image"] * 3 + ["completed"]
        below = {"num_inference_steps": 20, "guidance_scale": 1.0, "prompt": "a drawing"}
        longer = server.draw(prompts[0], seed=0, texture=below, **asked).json()
        assert longer["structure_cached"] and longer["steps"]["texture"] > first.json()["steps"]["texture"]
        assert edit(server, alone[0], seed=1).status_code == 200
        few = server.draw(prompts[0], num_inference_steps=1)
        assert few.status_code == 400 and "half without a step" in few.json()["error"]["message"]


def test_students_are_served_in_their_own_steps_whatever_is_asked(tmp_path: Path) -> None:
    """Over HTTP: two students, and one over a half that was not distilled, with steps, cache, texture and edits."""
    student, plain = student_of(tiny(), "embedded", 2), tiny()
    halves = {
        name: generator(tmp_path / name, role, recipe, seed)
        for name, role, recipe, seed in (
            ("above", "structure", student, 3), ("below", "texture", student, 4), ("many", "texture", plain, 4),
        )
    }  # fmt: skip
    assemble_pair(halves["above"], halves["below"], plain, tmp_path / "students")
    assemble_pair(halves["above"], halves["many"], plain, tmp_path / "mixed")
    with serving(tmp_path / "students", max_in_flight=16, cache_bytes=1 << 26) as server:
        files = []
        for steps in (1, 4, 20):
            answer = server.draw("a fox", seed=1, num_inference_steps=steps, guidance_scale=5.0)
            assert answer.json()["steps"] == {"structure": 2, "texture": 2}
            files.append(pixels(file_of(answer)))
        assert np.array_equal(files[0], files[1]) and np.array_equal(files[1], files[2])
        own = server.draw("a fox", seed=1, num_inference_steps={"structure": 5, "texture": 3}).json()
        assert own["steps"] == {"structure": 2, "texture": 2}
        below = server.draw("a fox", seed=1, texture={"num_inference_steps": 30, "prompt": "an owl"}).json()
        assert below["structure_cached"] and below["steps"] == {"structure": 2, "texture": 2}
        assert edit(server, file_of(answer), seed=1).status_code == 200
    pair = PanGuDrawPipeline.from_pretrained(tmp_path / "students")
    pair.set_progress_bar_config(disable=True)
    ours = pair("a fox", generator=torch.Generator().manual_seed(1), num_inference_steps=9, output_type="np").images[0]
    assert np.abs(files[0] / 255 - ours).max() < 0.02
    with serving(tmp_path / "mixed", max_in_flight=16, cache_bytes=0) as server:
        assert server.draw("a fox", seed=1, num_inference_steps=20).json()["steps"] == {"structure": 2, "texture": 10}
        few = server.draw("a fox", seed=1, num_inference_steps=1)
        assert few.status_code == 400 and "texture half without a step" in few.json()["error"]["message"]


@pytest.mark.long
def test_three_experts_with_texts_of_their_own_are_served_with_steps_by_role(tmp_path: Path) -> None:
    folder = written_experts(tmp_path)
    made = load_pair(folder)
    made.set_progress_bar_config(disable=True)
    asked: dict[str, Any] = {"num_inference_steps": 9, "guidance_scale": 3.0}
    with serving(folder, max_in_flight=16, cache_bytes=1 << 26) as server:
        alone = [server.draw(f"fox {seed}", seed=seed, **asked) for seed in range(3)]
        with ThreadPoolExecutor(3) as threads:
            together = list(threads.map(lambda seed: server.draw(f"fox {seed}", seed=seed, **asked), range(3)))
        for one, answer in zip(alone, together, strict=True):
            assert np.abs(pixels(file_of(one)) - pixels(file_of(answer))).max() <= 1
        steps = alone[0].json()["steps"]
        assert (
            list(steps) == ["structure", "middle", "texture"] and sum(steps.values()) == 9 and min(steps.values()) > 0
        )
        assert together[0].json()["structure_cached"]
        ours = made("fox 1", generator=torch.Generator().manual_seed(1), output_type="np", **asked).images[0]
        assert np.abs(pixels(file_of(alone[1])) / 255 - ours).max() < 0.02
        longer = server.draw("fox 0", seed=0, texture={"num_inference_steps": 30}, **asked).json()["steps"]
        assert longer["middle"] > steps["middle"] and longer["texture"] > steps["texture"]
        assert edit(server, file_of(alone[0]), seed=1).status_code == 200
        cut = server.draw("a very long fox " * 20, seed=0, **asked).json()["unread"]
        assert {one["encoder"] for one in cut} == {"text_encoder", "text_encoder_of_texture"}
        few = server.draw("fox", num_inference_steps=2)
        assert few.status_code == 400 and "half without a step; the least is" in few.json()["error"]["message"]
    loaded = {
        part: {name for name, each in load_unchecked(release_of(folder), part).components.items() if each is not None}
        for part in ("structure", "middle", "texture", "decoder")
    }
    assert {"structure", "text_encoder", "text_encoder_of_texture"} < loaded["structure"]
    assert {"middle", "scheduler"} == loaded["middle"]
    assert {"texture", "scheduler"} == loaded["texture"] and {"vae", "scheduler"} == loaded["decoder"]


@pytest.mark.long
def test_each_of_three_experts_has_steps_guidance_and_adapters_of_its_own(tmp_path: Path) -> None:
    folder = written_experts(tmp_path)
    unet = load_unchecked(release_of(folder), "middle").middle  # type: ignore[attr-defined]
    save_file(spelled(unet, random_adapter(unet, ATTENTION, 3), "kohya"), tmp_path / "ink.safetensors")
    loras = {"ink": {"middle": str(tmp_path / "ink.safetensors")}}
    pipe = load_pair(folder)
    pipe.set_progress_bar_config(disable=True)

    def in_python(**fields: Any) -> np.ndarray:
        fresh = torch.Generator().manual_seed(1)
        return 255 * pipe("a fox", generator=fresh, output_type="np", guidance_scale=3.0, **fields).images[0]

    with serving(folder, max_in_flight=16, cache_bytes=1 << 26, loras=loras) as server:
        for counts in ((3, 2, 4), (2, 4, 1), (3, 1, 12)):
            steps = dict(zip(("structure", "middle", "texture"), counts, strict=True))
            answer = server.draw("a fox", seed=1, num_inference_steps=steps, guidance_scale=3.0)
            assert answer.json().get("steps") == steps, answer.text
            assert file_of(server.draw(**answer.json()["request"])) == file_of(answer)
            assert np.abs(pixels(file_of(answer)) - in_python(num_inference_steps=steps)).max() <= 1
        by_snr: dict[str, Any] = {"num_inference_steps": 6, "step_split": "log_snr"}
        answer = server.draw("a fox", seed=1, guidance_scale=3.0, **by_snr)
        split = answer.json()["steps"]
        assert (
            list(split) == ["structure", "middle", "texture"] and sum(split.values()) == 6 and min(split.values()) > 0
        )
        assert np.abs(pixels(file_of(answer)) - in_python(**by_snr)).max() <= 1

        def drawn(**fields: Any) -> np.ndarray:
            return pixels(file_of(server.draw("a fox", seed=1, num_inference_steps=6, **fields)))

        scales: dict[str, float] = {"structure": 3.0, "texture": 3.0}
        plain, other = drawn(guidance_scale=scales), drawn(guidance_scale=scales | {"middle": 9.0})
        assert np.array_equal(plain, drawn(guidance_scale=3.0)) and not np.array_equal(plain, other)
        assert np.array_equal(plain, drawn(guidance_scale=scales | {"middle": 3.0}))
        everywhere = drawn(guidance_scale=3.0, guidance_interval=[0, 1000])
        assert np.array_equal(plain, everywhere)
        between = drawn(guidance_scale=3.0, guidance_interval={"middle": [0, 0]})
        assert np.array_equal(between, drawn(guidance_scale=scales | {"middle": 1.0}))
        adapted = drawn(guidance_scale=3.0, loras=[{"name": "ink"}])
        assert np.abs(adapted - plain).max() > 2
        assert np.array_equal(plain, drawn(guidance_scale=3.0, loras=[{"name": "ink", "middle": 0.0}]))
        extra = {"seed": 1, "num_inference_steps": {"structure": 2, "middle": 2, "texture": 2}}
        events = client(server).images.generate(
            model="pangu-pair", prompt="a fox", stream=True, partial_images=3, extra_body=extra
        )
        assert [event.type.rsplit(".")[-1] for event in events] == ["partial_image"] * 3 + ["completed"]
        for fields, param, said in (
            ({"num_inference_steps": {"structure": 3, "texture": 3}}, "num_inference_steps.middle", "Missing"),
            ({"num_inference_steps": 2, "step_split": "log_snr"}, "num_inference_steps", "the least is 3"),
            ({"guidance_interval": {"middle_2": [1, 2]}}, "guidance_interval.middle_2", "structure, middle, texture"),
            ({"lora_scales": {"middle_2": 1.0}}, "lora_scales.middle_2", "structure, middle, texture"),
            ({"loras": [{"name": "ink", "texture": 1.0}]}, "loras", "no adapter for the texture half"),
        ):
            error = server.draw("a fox", seed=1, **fields).json()["error"]
            assert error["param"] == param and said in error["message"], error


@pytest.mark.long
def test_pools_of_experts_between_come_and_go_with_the_releases_that_have_such(tmp_path: Path) -> None:
    settings = ServeSettings.model_validate({"structure": {"threads": 1}, "cache_bytes": 0})
    three, two = (release_of(written(tmp_path / name)) for name, written in WRITTEN.items())
    engine = LocalEngine(settings, Metrics(), load=load_unchecked)

    async def walked() -> None:
        job = Job(prompt="a fox", seed=1, steps=3)
        for routing, between in (
            (ReleaseRouting(champion=two), set()),
            (ReleaseRouting(champion=two, held=(three,)), {"middle"}),
            (ReleaseRouting(champion=three, canary=two, canary_share=0.5), {"middle"}),
            (ReleaseRouting(champion=two), set()),
        ):
            await engine.take(routing)
            held = await engine.holdings()
            assert set(held) == {"structure", "texture", "decoder"} | between
            assert all(set(own) >= {each.sha256 for each in routing.releases} for own in held.values())
            for channel in ["champion"] + ["canary"] * (routing.canary is not None):
                drawn = await engine.draw(job, channel)
                assert set(drawn.role_steps) == {"structure", *routing.choose(channel, "").between, "texture"}

    asyncio.run(walked())
    engine.close()
