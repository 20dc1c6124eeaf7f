"""`pangu coop`: models that cooperate, from folders or hub ids to pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from pangu.cli.common import JsonOption, ResultOption, finish
from pangu.errors import UserError

if TYPE_CHECKING:
    from pangu.pipelines.coop import CallCounts, CoopPipeline, Partner

EACH = "Give it once for all partners, or once for each."


class Cooperated(BaseModel):
    """What `pangu coop` reports. network_calls, decodes and encodes are by the name of the model."""

    model_config = ConfigDict(frozen=True)
    images: list[str]
    network_calls: dict[str, int]
    decodes: dict[str, int]
    encodes: dict[str, int]
    seconds: float | None


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(coop)


def coop(
    main: Annotated[str, typer.Option("--main", help="The model whose picture it becomes: a folder or a hub id.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What to draw.")] = "",
    partner: Annotated[
        list[str] | None, typer.Option("--partner", help="A model that helps; may be given again.")
    ] = None,
    strength: Annotated[list[float] | None, typer.Option("--strength", help=f"d of Eq. 5, 0 to 1. {EACH}")] = None,
    start: Annotated[
        list[float] | None, typer.Option("--start", help=f"Part of the steps it begins at. {EACH}")
    ] = None,
    stop: Annotated[list[float] | None, typer.Option("--stop", help=f"Part of the steps it ends at. {EACH}")] = None,
    every: Annotated[list[int] | None, typer.Option("--every", help=f"Ask it at each n-th step only. {EACH}")] = None,
    partner_prompt: Annotated[
        list[str] | None, typer.Option("--partner-prompt", help=f"Its own prompt. {EACH}")
    ] = None,
    controlnet: Annotated[list[Path] | None, typer.Option("--controlnet", help=f"Put on the partner. {EACH}")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help=f"Control image, or the one to vary. {EACH}")
    ] = None,
    edges: Annotated[bool, typer.Option("--edges", help="Use the edges of each --image, by OpenCV.")] = False,
    partner_side: Annotated[
        list[int] | None, typer.Option("--partner-side", help=f"Its own square pictures, px. {EACH}")
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option("--mask", help=f"Where it helps: white is everything. {EACH}")
    ] = None,
    low: Annotated[str | None, typer.Option("--low", help="A low-resolution model that begins.")] = None,
    t_low: Annotated[float, typer.Option("--t-low", help="Timestep at which the main model takes over.")] = 500,
    upsample: Annotated[str, typer.Option("--upsample", help="bilinear, lanczos, spanx2 or spanx4.")] = "lanczos",
    negative_prompt: Annotated[str | None, typer.Option("--negative-prompt", help="What not to draw.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="px. Default: the main model's own.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="px. Default: the main model's own.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Sampling steps.")] = 30,
    guidance: Annotated[float, typer.Option("--guidance", help="Guidance scale.")] = 5.0,
    count: Annotated[int, typer.Option("--count", help="Pictures, from seeds that count up.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first picture.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="Networks in bfloat16.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would cost, seconds included.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where the pictures go.")] = Path("coop"),
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw with models of different latent spaces, resolutions and controls in one denoising process."""
    import torch

    from pangu.pipelines.coop import CoopPipeline, Handoff

    if count < 1 or seed < 0:
        raise UserError(f"--count must be at least 1 and --seed not negative, not {count} and {seed}.")
    given = {
        "strength": strength,
        "start": start,
        "stop": stop,
        "every": every,
        "prompt": partner_prompt,
        "controlnet": controlnet,
        "image": [_picture(path, edges) for path in image or []],
        "height": partner_side,
        "width": partner_side,
        "upsample": [upsample] if partner_side else None,
        "mask": [_picture(path) for path in mask or []],
    }
    handoff = None if low is None else Handoff(low, t_low=t_low, upsample=upsample)
    dtype = torch.bfloat16 if half else None
    pipe = CoopPipeline(main, _partners(partner or [], given), handoff, torch_dtype=dtype).to(device)
    asked: dict[str, Any] = {"negative_prompt": negative_prompt, "height": height, "width": width}
    asked |= {"num_inference_steps": steps, "guidance_scale": guidance, "num_images_per_prompt": count}
    cost = pipe.plan(prompt, **asked, measure=plan)
    finish(_outcome([] if plan else _draw(pipe, prompt, asked, seed, folder), cost), result, as_json)


def _partners(sources: list[str], given: dict[str, list[Any] | None]) -> "list[Partner]":
    """A partner for each source; an option given once goes to all.

    Raises:
        UserError: an option given another number of times.
    """
    from pangu.pipelines.coop import Partner

    values: list[dict[str, Any]] = [{} for _ in sources]
    for name, entries in given.items():
        if not entries:
            continue
        if len(entries) not in (1, len(sources)):
            option = {"prompt": "partner-prompt", "height": "partner-side"}.get(name, name)
            raise UserError(
                f"--{option} is given {len(entries)} times for {len(sources)} partners; give it once, or once each."
            )
        for place, value in enumerate(values):
            value[name] = entries[0] if len(entries) == 1 else entries[place]
    return [Partner(source, **value) for source, value in zip(sources, values, strict=True)]


def _picture(path: Path, edges: bool = False) -> Any:
    from pangu.data.encode.edges import edge_picture
    from pangu.data.images import BadImage, read_rgb

    try:
        picture = read_rgb(path.read_bytes())
    except (OSError, BadImage) as error:
        raise UserError(f"{path} is no picture that can be read ({error}).") from error
    return edge_picture(picture) if edges else picture


def _draw(pipe: "CoopPipeline", prompt: str, asked: dict[str, Any], seed: int, folder: Path) -> list[str]:
    import torch

    seeds = range(seed, seed + asked["num_images_per_prompt"])
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, picture in zip(seeds, pipe(prompt, generator=generators, **asked).images, strict=True):
        names.append(str(folder / f"{number}.png"))
        picture.save(names[-1])
    return names


def _outcome(images: list[str], cost: "CallCounts") -> Cooperated:
    counts = dict(cost.network_calls), dict(cost.decodes), dict(cost.encodes)
    return Cooperated(
        images=images, network_calls=counts[0], decodes=counts[1], encodes=counts[2], seconds=cost.seconds
    )
