"""The file beside a pair that leaves its home, by which diffusers loads it with `trust_remote_code`, or says what is missing.

It holds no sampler: two of them would draw two pictures. Pairs at home and released ones hold no code at all.
"""

from pathlib import Path

import pangu
from pangu.storage import read_json

PIPELINE_FILE = "pipeline.py"
"""Where diffusers looks for `custom_pipeline="pipeline"`."""


def pipeline_file(pair: Path) -> str:
    """The text of `pipeline.py` for a pair folder.

    Its import is spelled so that diffusers does not advise to install what the public index has under the name of this package.
    """
    name = read_json(pair / "model_index.json")["_class_name"]
    return f'''"""For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="pipeline", trust_remote_code=True)."""

from importlib import import_module

try:
    Pipeline = import_module("pangu.pipelines").{name}
except (ImportError, AttributeError) as error:
    raise ImportError(
        "This pair is drawn by PanGu {pangu.__version__} or later, which is not installed here: pip install PATH of its source "
        "or wheel (what the Python Package Index calls pangu is another package)."
    ) from error
'''
