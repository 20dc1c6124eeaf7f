"""Generators as a pool asks them, eager, compiled or captured; and all that is made before the first request comes."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pangu.config import Role
from pangu.models.devices import best_device
from pangu.serve.inference.padding import batch_sizes
from pangu.serve.inference.steps import most_at_once
from pangu.serve.settings import Execution, PoolSettings

if TYPE_CHECKING:
    from pangu.models.captured import Record
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def chosen(execution: Execution) -> Literal["eager", "compiled", "captured"]:
    """What `auto` means on the device of this process."""
    if execution != "auto":
        return execution
    return "captured" if best_device().type == "cuda" else "eager"


def sizes_of(settings: PoolSettings) -> tuple[int, ...] | None:
    """The batch sizes of a pool; None where its calls have as many rows as there are."""
    pads = chosen(settings.execution) != "eager" if settings.pad_batches is None else settings.pad_batches
    return batch_sizes(most_at_once(settings.most_rows)) if pads else None


def made_fast(pipeline: "PanGuDrawPipeline", execution: Execution, record: "Record | None" = None) -> None:
    """Compile or capture the generators that are loaded; what is said where that fails, and what is done, is theirs."""
    how = chosen(execution)
    if how == "captured":
        from pangu.models.captured import Graphs

        pipeline.graphs = Graphs(record)
    if how == "compiled":
        from pangu.models.compiled import compile_blocks

        for role in pipeline.roles:
            if pipeline.generator(role) is not None:
                compile_blocks(pipeline.generator(role))


def first_calls(
    pipeline: "PanGuDrawPipeline", folder: Path, role: Role, sizes: Sequence[int]
) -> Iterator[Callable[[], Any]]:
    """A call of the network of `role` for every shape and batch size that requests can ask for, the usual shape first.

    The largest batch of a shape comes first: recordings share working memory, and the first one takes it. Yields nothing where
    the width of the pooled text is unknown.
    """
    import torch

    from pangu.models.denoisers import family_of, latent_channels, text_channels

    generator, contract = pipeline.generator(role), pipeline.contract(role)
    pooled = family_of(generator).pooled_channels(generator.config)
    pooled = pooled_channels(generator.config, folder, role) if pooled is None else pooled
    if pooled is None:
        return
    pooled += pipeline.scores(role) is not None
    channels, tokens = latent_channels(generator), (contract.max_tokens, text_channels(generator))

    def call(height: int, width: int, rows: int) -> None:
        shapes = (rows, channels, height, width), (rows, *tokens), (rows, pooled)
        with torch.inference_mode():
            noisy, text, pooled_text = (torch.zeros(shape, device=pipeline.device) for shape in shapes)
            network = pipeline.denoiser(role, pipeline.preset_for(role, height * factor, width * factor))
            timestep = torch.full((rows,), pipeline.interval(role).low)
            network(noisy, timestep, text.to(generator.dtype), pooled_text.to(generator.dtype))

    factor = pipeline.reference.spatial_factor
    usual = (pipeline.resolution, pipeline.resolution)
    for height, width in sorted(pipeline.sizes, key=lambda size: size != usual):
        for rows in sorted(sizes, reverse=True):
            yield partial(call, height // factor, width // factor, rows)


def pooled_channels(generator: Any, folder: Path, role: Role) -> int | None:
    """How wide the pooled text is that the generator of `role` is given beside the tokens; 0 where it reads none.

    folder: of the pair; a pool that holds no text encoder finds its width there. None where that does not fit.
    """
    if generator.get("addition_embed_type") is None:
        return 0
    own, last = f"_of_{role}", ("text_encoder_2", "text_encoder")
    names = [name.replace("text_encoder", f"text_encoder{own}") for name in last]
    encoders = [path for name in (*names, *last) if (path := folder / name / "config.json").is_file()]
    if not encoders:
        return None
    config = json.loads(encoders[0].read_text())
    named = {config.get("projection_dim"), config.get("hidden_size")}
    total, width = generator["projection_class_embeddings_input_dim"], generator["addition_time_embed_dim"]
    # The index of the preset beside the pooled text, or the six numbers of SDXL.
    return next((total - numbers * width for numbers in (1, 6, 5) if total - numbers * width in named), None)
