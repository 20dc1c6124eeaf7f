"""A sheet of what a pair draws for prompts that have no true image, each picture above its prompt."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from pangu.config import Role
from pangu.lettering import captioned
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

BATCH = 8


def prompt_sheet(
    pair: PanGuDrawPipeline,
    asked: Sequence[tuple[str, str | None]],
    seed: int = 0,
    style_scale: float = 1.0,
    num_inference_steps: int = 20,
    guidance_scale: float | Mapping[Role, float] = 3.0,
) -> Image.Image:
    """One picture for each (prompt, style or None), in rows of eight; picture i is drawn from seed + i.

    Raises:
        UserError: the pair does not know a style.
    """
    images: dict[int, Image.Image] = {}
    for style in dict.fromkeys(style for _, style in asked):
        places = [place for place, (_, own) in enumerate(asked) if own == style]
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            images |= zip(
                batch,
                pair(
                    [asked[place][0] for place in batch],
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    generator=[torch.Generator().manual_seed(seed + place) for place in batch],
                    styles={style: style_scale} if style else None,
                ).images,
                strict=True,
            )
    captions = [f"{prompt} ({style})" if style else prompt for prompt, style in asked]
    return captioned([images[place] for place in range(len(asked))], captions)
