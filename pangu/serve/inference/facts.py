"""What a picture says of itself, in its file and in the answer: enough to draw it again, by the same request."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pangu.config import Role
from pangu.serve.inference.messages import CoopJob, Job, Release


def request_of(job: Job) -> dict[str, Any]:
    """The body of a request that draws the images of `job` again, with the release's own values where it left something out.

    Files are not in it: those of an edit and control images have to be sent again (`files_in`).
    """
    body: dict[str, Any] = {
        "prompt": job.prompt or None,
        "negative_prompt": job.negative_prompt,
        "n": job.images if job.images > 1 else None,
        "size": None if job.width_height is None else "x".join(map(str, job.width_height)),
        "num_inference_steps": dict(job.role_steps) or job.steps,
        "guidance_scale": _guidance(job),
        "guidance_interval": {role: list(each) for role, each in job.guidance_intervals.items()} or None,
        "seed": job.seed,
        "scheduler": job.scheduler,
        "style": dict(job.styles) or None,
        "lora_scales": dict(job.lora_scales) or None,
        "loras": [{"name": each.name, "weight": each.weight, **each.own} for each in job.loras] or None,
        "texture": (_texture(job) or None) if job.source is None else None,
        "long_prompts": job.long_prompts,
        "strength": job.strength,
        "coop": None if job.coop is None else _coop(job.coop),
    }
    if job.output_format != "png":
        body |= {"output_format": job.output_format, "output_compression": job.output_compression}
    return _given(body)


def facts_of(release: Release, job: Job, scheduler: str, role_steps: Mapping[Role, int]) -> dict[str, str]:
    """What a file says of itself, beside its seed (`own_facts`). `request` is the JSON of `request_of`."""
    request = request_of(job)
    texts = {name: value if isinstance(value, str) else _json(value) for name, value in request.items() if name != "n"}
    return {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt or "",
        **({"original_prompt": job.original_prompt} if job.original_prompt is not None else {}),
        **texts,
        "scheduler": scheduler,
        **{f"{role}_steps": str(count) for role, count in role_steps.items()},
        **({"unread": _json([asdict(each) for each in job.unread])} if job.unread else {}),
        **({"unknown": _json([asdict(each) for each in job.unknown])} if job.unknown else {}),
        **files_in(job),
        "pair_version": str(release.pair_version),
        "structure_version": str(release.structure_version),
        "texture_version": str(release.texture_version),
        **{f"{role}_version": str(version) for role, version in release.middle_versions.items()},
        "pair_sha256": release.sha256,
        "Software": "PanGu",
        "request": _json(request),
    }


def own_facts(facts: Mapping[str, str], job: Job, index: int) -> dict[str, str]:
    """What the file of image number `index` says; partial images, which are no results, say nothing.

    seed: the one that draws this image alone. image_index: where it stands among those of `request`.
    """
    return {**facts, "seed": str(job.seed_of(index)), "image_index": str(index)} if facts else {}


def files_in(job: Job) -> dict[str, str]:
    """SHA-256 of the files that belong to the request."""
    controls = job.coop.images if job.coop else ()
    files = {"image": job.coop.varied if job.coop else job.source, "mask": job.mask}
    files |= {f"control_image_{index}": file for index, file in enumerate(controls)}
    return {f"{name}_sha256": hashlib.sha256(file).hexdigest() for name, file in files.items() if file is not None}


def _guidance(job: Job) -> Any:
    """Edits say it of both halves, because they take no `texture`; where experts between have their own, it is said of each."""
    own = job.texture.guidance_scale
    if job.guidance_between:
        texture = job.guidance_scale if own is None else own
        return {"structure": job.guidance_scale, **job.guidance_between, "texture": texture}
    return (
        job.guidance_scale if own is None or job.source is None else {"structure": job.guidance_scale, "texture": own}
    )


def _texture(job: Job) -> dict[str, Any]:
    own = job.texture
    return _given(
        {
            "prompt": own.prompt,
            "negative_prompt": own.negative_prompt,
            "style": None if own.styles is None else dict(own.styles),
            "guidance_scale": None if job.guidance_between else own.guidance_scale,
            "num_inference_steps": None if job.role_steps else own.steps,
        }
    )


def _coop(own: CoopJob) -> dict[str, Any]:
    bridge = {"every": own.every, "start": own.start, "stop": own.stop, "upsample": own.upsample}
    return {"partners": list(own.partners), "strength": list(own.strengths), "bridge": _given(bridge)}


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
