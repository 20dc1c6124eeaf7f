"""Every bound of the HTTP API, in one place; the OpenAPI document carries them all."""

import re

MAX_BODY_BYTES = 8 * 2**20
MAX_BODY_S = 60.0
"""From the head of a request to the end of its body."""
MAX_IMAGE_BYTES = 4 * 2**20
"""Of one image that a client sends, decoded."""
MAX_PROMPT_CHARS = 4000
MAX_IMAGES = 10
MAX_COOP_IMAGES = 4
"""Partners draw all images of a request at once."""
MIN_SIDE, MAX_SIDE, SIDE_STEP = 32, 2048, 8
MAX_PIXELS = 10 * 2**20
"""Of all images of one request together."""
MAX_STEPS = 200
MAX_GUIDANCE = 50.0
MAX_SEED = 2**32 - 1
MAX_TIMESTEP = 1000.0
MAX_PARTIALS = 3
MAX_STYLES, MAX_STYLE_SCALE = 8, 20.0
MAX_LORA_SCALE = 2.0
MAX_PARTNERS = 4
MAX_NAME_CHARS = 64
MAX_FORM_FIELDS = 64
MAX_FORM_FILES = 17
"""As many as OpenAI takes, so that it is said which of them are too many."""

SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

STEP_FACTORS = {
    "auto": 1.0, "low": 0.5, "medium": 1.0, "standard": 1.0, "high": 2.0, "hd": 2.0, "xhigh": 3.0, "max": 4.0,
}  # fmt: skip
"""What `quality` makes of the steps that a release prefers, where the request names no number."""
