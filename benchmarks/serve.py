"""What serving costs beside the pipeline itself, and what it does under load. One JSON line for each claim.

Everything runs on this machine in one run: `pangu serve` as a process of its own with one thread, and the diffusers pipeline in
this process with one thread, in alternating rounds; same pair, steps and scheduler. On a CPU, processor time of the two processes
is compared, so that other work on the machine does not count. The last claims, of releases that change under load, are those of
`serve_releases.py`, on a stack that it starts. Memory is `stack_memory.py`'s.

    python benchmarks/serve.py [--pair FOLDER] [--steps 20] [--rounds 5]
    python benchmarks/serve.py --device cuda        what `serve_pools.py` claims of a GPU, without HTTP
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import recipe
from pangu.serve.inference.parts import load_unchecked, release_of
from pangu.stack.ports import free_port

CROWD = 8


class Server:
    """`pangu serve` of one pair."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url, self.process = url, process
        self.client = httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=256))

    def draw(self, prompt: str = "a red apple", **fields: Any) -> httpx.Response:
        return self.client.post("/v1/images/generations", json={"prompt": prompt, **fields})


@contextmanager
def serving(pair: Path, **settings: Any) -> Iterator[Server]:
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"structure": {"threads": 1}, **settings}, file)
        file.flush()
        command = [sys.executable, "-m", "pangu", "serve", str(pair), "--port", str(port), "--settings", file.name]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        try:
            server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
            while not _is_ready(server):
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(server: Server) -> bool:
    try:
        return server.client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def report(name: str, value: float, goal: float, holds: bool, **facts: Any) -> None:
    rounded = {key: round(fact, 4) if isinstance(fact, float) else fact for key, fact in facts.items()}
    print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "holds": holds, **rounded}), flush=True)


def alone(pair: PanGuDrawPipeline, steps: int, prompt: str, seed: int) -> None:
    pair(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed))


def crowd(server: Server, requests: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(CROWD) as clients:
        for answer in clients.map(lambda fields: server.draw(**fields), requests):
            assert answer.status_code == 200, answer.text


def single_and_saturated(server: Server, pair: PanGuDrawPipeline, steps: int, rounds: int) -> None:
    """One request at a time, in turns with the pipeline, each with another prompt, in changing order; then eight at once."""
    own = psutil.Process()
    alone(pair, steps, "warm", 0)
    server.draw(num_inference_steps=steps)
    pairs = []
    for number in range(20 * rounds):
        # Both encode their text: what the server remembers of a prompt must not count.
        prompt = f"a red apple, number {number}"
        took = {}
        for who in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            if who == "ours":
                took[who] = spent(server.process, server.draw, prompt, seed=number, num_inference_steps=steps)
            else:
                took[who] = spent(own, alone, pair, steps, prompt, number)
        pairs.append((took["ours"], took["theirs"]))
    ratios = [paired([(ours[kind], theirs[kind]) for ours, theirs in pairs]) for kind in (0, 1)]
    alone_s = statistics.median(theirs[0] for _, theirs in pairs)
    report("serve_single", ratios[0][0], 1.05, ratios[0][0] <= 1.05, spread=ratios[0][1], wall=ratios[1], cpu_s=alone_s)
    saturated = []
    for number in range(rounds):
        asked = [
            {"prompt": f"crowd {number}, {image}", "seed": image, "num_inference_steps": steps}
            for image in range(2 * CROWD)
        ]
        saturated.append(spent(server.process, crowd, server, asked)[0] / len(asked))
    speed = alone_s / statistics.median(saturated)
    report("serve_saturated", speed, 1.0, speed >= 1.0, cpu_s_per_image=statistics.median(saturated))


def rerender(server: Server, steps: int, rounds: int) -> None:
    """Another style from the boundary on, against the whole image."""
    pairs = []
    for number in range(4 * rounds):
        prompt, base = f"a red apple, layout {number}", {"seed": number, "num_inference_steps": steps}
        whole = spent(server.process, server.draw, prompt, **base)
        for scale in (2.0, 4.0):
            asked = base | {"texture": {"guidance_scale": scale}}
            pairs.append((spent(server.process, cached, server, prompt, asked), whole))
    ratios = [paired([(again[kind], whole[kind]) for again, whole in pairs]) for kind in (0, 1)]
    report("serve_rerender", ratios[0][0], 0.6, ratios[0][0] <= 0.6, spread=ratios[0][1], wall=ratios[1])


def cached(server: Server, prompt: str, asked: dict[str, Any]) -> None:
    assert server.draw(prompt, **asked).json()["structure_cached"]


def spent(process: psutil.Process, work: Callable[..., Any], *given: Any, **named: Any) -> tuple[float, float]:
    """(processor time of `process`, wall-clock time) while `work` runs here, s."""
    before, clock = process.cpu_times(), time.perf_counter()
    work(*given, **named)
    wall_s, after = time.perf_counter() - clock, process.cpu_times()
    return after.user + after.system - before.user - before.system, wall_s


def paired(times: list[tuple[float, float]]) -> tuple[float, list[float]]:
    """(ratio of the medians of two series, the middle half of the ratios of pairs)."""
    ratio = statistics.median(one for one, _ in times) / statistics.median(other for _, other in times)
    quarters = statistics.quantiles([one / max(other, 1e-9) for one, other in times], n=4)
    return ratio, [round(quarters[0], 3), round(quarters[2], 3)]


def memory(pair: Path) -> None:
    """Bytes of weights in the larger of two pools, against one process that holds everything."""

    def weights(part: str) -> int:
        loaded = load_unchecked(release_of(pair), part)
        modules = [each for each in loaded.components.values() if isinstance(each, torch.nn.Module)]
        return sum(tensor.numel() * tensor.element_size() for module in modules for tensor in module.parameters())

    sizes = {part: weights(part) for part in ("structure", "texture", "decoder", "coop")}
    value = max(sizes["structure"], sizes["texture"]) / sizes["coop"]
    report("serve_memory", value, 0.6, value <= 0.6, bytes=sizes)


def overload(pair: Path, steps: int) -> None:
    """Ten times what is accepted, at once: the accepted keep their deadline, the others hear so within 100 ms."""
    accepted, timeout_s = 4, 60.0
    with serving(pair, max_in_flight=accepted, timeout_s=timeout_s) as server:
        server.draw(num_inference_steps=steps)
        took: dict[int, list[float]] = {}
        lock = threading.Lock()

        def ask(seed: int) -> None:
            clock = time.perf_counter()
            status = server.draw(seed=seed, num_inference_steps=3 * steps).status_code
            with lock:
                took.setdefault(status, []).append(time.perf_counter() - clock)

        with ThreadPoolExecutor(10 * accepted) as clients:
            list(clients.map(ask, range(10 * accepted)))
    refused = sorted(took.get(429, [0.0]))
    late = sum(seconds > timeout_s for seconds in took.get(200, []))
    p95 = refused[int(0.95 * (len(refused) - 1))]
    holds = set(took) == {200, 429} and late == 0 and p95 <= 0.1
    facts = {str(status): len(values) for status, values in took.items()}
    report("serve_overload", p95, 0.1, holds, late=late, answers=facts, refused_median_s=statistics.median(refused))


def batch_of_pipelines(pair: Path) -> Any:
    """What one would write first: the whole pipeline behind `@serve.batch`, requests of equal steps in one call."""
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
    class Whole:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.pipe = PanGuDrawPipeline.from_pretrained(pair)
            self.pipe.set_progress_bar_config(disable=True)

        @serve.batch(max_batch_size=CROWD, batch_wait_timeout_s=0.02)
        async def draw(self, asked: list[dict[str, Any]]) -> list[list[int]]:
            import asyncio

            return await asyncio.to_thread(self.drawn, asked)

        def drawn(self, asked: list[dict[str, Any]]) -> list[list[int]]:
            sizes: dict[int, list[int]] = {}
            for steps in sorted({each["num_inference_steps"] for each in asked}):
                own = [index for index, each in enumerate(asked) if each["num_inference_steps"] == steps]
                seeds = [torch.Generator().manual_seed(asked[index]["seed"]) for index in own]
                prompts = [asked[index]["prompt"] for index in own]
                images = self.pipe(prompts, num_inference_steps=steps, generator=seeds).images
                sizes |= {index: list(image.size) for index, image in zip(own, images, strict=True)}
            return [sizes[index] for index in range(len(asked))]

        async def __call__(self, request: Request) -> Any:
            return await self.draw(await request.json())

    return Whole.bind()  # type: ignore[attr-defined]


def layouts(pair: Path, steps: int, rounds: int) -> None:
    """Images a second of eight clients: the whole pair in one replica against a replica for each part, both under Ray Serve."""
    import ray
    from ray import serve

    from pangu.serve.app import build_with
    from pangu.serve.inference.messages import ReleaseRouting

    manifest_of(pair)
    routing = ReleaseRouting(champion=release_of(pair)).model_dump(mode="json")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    rates: dict[str, list[float]] = {"pair": [], "pools": []}
    alone: dict[str, list[float]] = {"pair": [], "pools": []}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        for name in rates:
            serve.run(build_with({"layout": name}, routing), name=name, route_prefix=f"/{name}")
            path = f"/{name}/v1/images/generations"
            while client.post(path, json={"prompt": "x", "seed": 0, "num_inference_steps": 2}).status_code != 200:
                time.sleep(0.5)

        def ask(name: str, number: int, image: int) -> None:
            body = {"prompt": f"crowd {number}, {image}", "seed": image, "num_inference_steps": steps}
            client.post(f"/{name}/v1/images/generations", json=body).raise_for_status()

        for number in range(rounds):
            for name in [*rates] if number % 2 else [*reversed(rates)]:
                clock = time.perf_counter()
                with ThreadPoolExecutor(CROWD) as clients:
                    list(
                        clients.map(lambda image, name=name, number=number: ask(name, number, image), range(4 * CROWD))
                    )
                rates[name].append(4 * CROWD / (time.perf_counter() - clock))
                clock = time.perf_counter()
                for image in range(CROWD):
                    ask(name, -1 - number, image)
                alone[name].append((time.perf_counter() - clock) / CROWD)
    serve.shutdown()
    ray.shutdown()
    middle = {name: statistics.median(each) for name, each in rates.items()}
    one = {f"{name}_alone_s": statistics.median(each) for name, each in alone.items()}
    value = middle["pair"] / middle["pools"]
    report("serve_layouts", value, 0.95, value >= 0.95, **middle, **one)


def mixed_steps(pair: Path, steps: int, rounds: int) -> None:
    """Requests of many step counts: ours in one process against `@serve.batch`, both under Ray Serve."""
    import ray
    from ray import serve

    from pangu.serve.app import build_with
    from pangu.serve.inference.messages import ReleaseRouting

    manifest_of(pair)
    settings = {"layout": "one_process", "structure": {"threads": 1}, "max_in_flight": 64, "gateway_cpus": 1}
    routing = ReleaseRouting(champion=release_of(pair)).model_dump(mode="json")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_with(settings, routing), name="ours", route_prefix="/ours")
    serve.run(batch_of_pipelines(pair), name="batch", route_prefix="/batch")
    paths: dict[str, str] = {"ours": "/ours/v1/images/generations", "batch": "/batch"}
    took: dict[str, list[float]] = {name: [] for name in paths}
    rates: dict[str, list[float]] = {name: [] for name in paths}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        for path in paths.values():
            while client.post(path, json={"prompt": "x", "seed": 0, "num_inference_steps": 2}).status_code != 200:
                time.sleep(0.5)
        for number in range(rounds):
            for name, path in paths.items():
                rates[name].append(_load(client, path, steps, number, took[name]))
    serve.shutdown()
    ray.shutdown()
    value = statistics.median(rates["ours"]) / statistics.median(rates["batch"])
    report("serve_mixed_steps", value, 1.2, value >= 1.2, **{name: _percentiles(each) for name, each in took.items()})


def _load(client: httpx.Client, path: str, steps: int, number: int, took: list[float]) -> float:
    """Images/s of one crowd."""

    def ask(index: int) -> None:
        clock = time.perf_counter()
        body = {
            "prompt": "a red apple",
            "seed": 1000 * number + index,
            "num_inference_steps": steps // 2 + 3 * (index % 8),
        }
        assert client.post(path, json=body).status_code == 200
        took.append(time.perf_counter() - clock)

    clock = time.perf_counter()
    with ThreadPoolExecutor(CROWD) as clients:
        list(clients.map(ask, range(4 * CROWD)))
    return 4 * CROWD / (time.perf_counter() - clock)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{part}": round(ordered[int(part / 100 * (len(ordered) - 1))], 3) for part in (50, 95, 99)}


def script(name: str, *arguments: str) -> None:
    """Claims of another script of this folder."""
    subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *arguments], check=True)


def manifest_of(folder: Path) -> None:
    from pangu.registry.manifest import Manifest

    Manifest.of(folder).save(folder)


def stand_in(folder: Path, seed: int) -> Path:
    save_pair(untrained_pair(recipe("demo"), seed), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, help="pair folder; default: an untrained pair of the demo recipe")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of claims, separated by commas")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    asked = parser.parse_args()
    if asked.device == "cuda":
        script("serve_pools.py", "--device", "cuda")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        pair = asked.pair or stand_in(Path(scratch) / "pair", 0)
        claims: dict[str, Callable[[], None]] = {
            "memory": lambda: memory(pair),
            "single": lambda: with_server(pair, asked.steps, asked.rounds),
            "overload": lambda: overload(pair, asked.steps),
            "layouts": lambda: layouts(pair, asked.steps, asked.rounds),
            "mixed": lambda: mixed_steps(pair, asked.steps, asked.rounds),
            # Swaps, the way back, and replicas that die; needs a stack.
            "releases": lambda: script("serve_releases.py", "--steps", str(asked.steps)),
        }
        for name, claim in claims.items():
            if not asked.only or name in asked.only.split(","):
                claim()


def with_server(pair: Path, steps: int, rounds: int) -> None:
    alongside = PanGuDrawPipeline.from_pretrained(pair)
    alongside.set_progress_bar_config(disable=True)
    with serving(pair) as server:
        single_and_saturated(server, alongside, steps, rounds)
        rerender(server, steps, rounds)


if __name__ == "__main__":
    main()
