"""What begins with an image: an edit, a variation by the texture half, or a variation that a declared partner draws along.

From a form to a request and its job; knows no HTTP.
"""

from dataclasses import replace

from pangu.serve.api.request_body import Form
from pangu.serve.api.requests import EditRequest, ImageRequest, parse_request
from pangu.serve.api.translate import job_of
from pangu.serve.error_answers import invalid
from pangu.serve.inference.messages import Job
from pangu.serve.settings import ServeSettings

Refinement = tuple[ImageRequest, Job]
NOT_FOR_EDITS = ("coop", "texture", "step_split")
NOT_FOR_VARIATIONS = ("texture", "step_split")
"""Of any kind; their documents leave these out."""
WITHOUT_PARTNER = ("prompt", "style", "enhance")
WITH_PARTNER = ("strength", "mask")
"""The texture half takes the image as its layout, so there is nothing to say; a partner takes it as what it is about, at no level
of noise."""
UNWORDED = "a variation"
"""In the place of a prompt, which a request needs; what is drawn is the empty caption of training."""


def edit_of(form: Form, settings: ServeSettings) -> Refinement:
    """An edit: the image is refined under a prompt.

    Raises:
        ApiError: 400, a field out of its bounds, or one that edits do not take.
    """
    fields, image, mask = form
    _refuse("edits", NOT_FOR_EDITS, fields)
    asked = parse_request(fields, settings.model_aliases, EditRequest)
    return asked, job_of(asked, settings, image, mask)


def variation_of(form: Form, settings: ServeSettings) -> Refinement:
    """A variation: by the partner that the request names, or else the server; and by the texture half alone where neither does.

    With a partner, `prompt` says what happens in the picture that it varies; without one, the pair draws under the empty caption.

    Raises:
        ApiError: as `edit_of`.
    """
    fields, image, mask = form
    usual = settings.coop.variations
    if usual is not None and mask is None and all(fields.get(name) is None for name in ("coop", *WITH_PARTNER)):
        fields = {**fields, "coop": {"partners": [usual]}}
    given = fields if mask is None else {**fields, "mask": mask}
    alone, worded = given.get("coop") is None, given.get("prompt") is not None
    _refuse("variations", NOT_FOR_VARIATIONS, given)
    _refuse("variations by the texture half", WITHOUT_PARTNER if alone else (), given)
    _refuse("variations by a partner", () if alone else WITH_PARTNER, given)
    _refuse("variations without a prompt", () if worded else ("enhance",), given)
    asked = parse_request(fields if worded else {**fields, "prompt": UNWORDED}, settings.model_aliases, EditRequest)
    job = job_of(asked, settings, image, mask)
    return asked, job if worded else replace(job, prompt="")


def _refuse(kind: str, names: tuple[str, ...], fields: dict[str, object]) -> None:
    for name in names:
        if fields.get(name) is not None:
            raise invalid(f"Invalid value for '{name}': {kind} do not take it.", name)
