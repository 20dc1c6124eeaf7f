"""Turns a source of the configuration ('embedded', a folder, a name of the home, a hub id) into what `from_pretrained` takes."""

import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

from pangu.errors import UserError
from pangu.storage import Home

CLIP_LIKE = ("clip", "clip_text_model", "chinese_clip", "chinese_clip_text_model")
"""Kinds of text encoders, as their configurations say it, that longer text can be read by in windows."""


def locate(source: str, asset: str) -> str:
    """The folder or hub id to load from; `asset` is the folder under `pangu/assets` that 'embedded' means.

    A word that is no path here is the pair of that name in the home, if there is one, as `pangu import` makes them.

    Raises:
        UserError: the source looks like a path, but nothing is there.
    """
    if source == "embedded":
        return str(files("pangu") / "assets" / asset)
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    path = Path(source).expanduser()
    if path.exists():
        return str(path.absolute())
    if named := pair_named(source):
        return str(named)
    if looks_like_path:
        raise UserError(f"There is no model at {source}; give a local folder, a hub id (owner/name) or 'embedded'.")
    return source


def pair_named(name: str) -> Path | None:
    """The folder of the pair of that name in the home; None where there is none."""
    if not name or "/" in name or name.startswith("."):
        return None
    folder = Home.from_environment().pair(name)
    return folder if (folder / "model_index.json").is_file() else None


def read_config(root: str, name: str) -> dict[str, Any] | None:
    """The JSON object in file `name` of a local folder or of a hub repository; None where that file does not exist.

    Raises:
        UserError: the hub does not answer or has no such repository, or the file is no JSON object.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = Path(root) / name if Path(root).is_dir() else Path(hf_hub_download(root, name))
        values = json.loads(path.read_text()) if path.is_file() else None
    except LocalEntryNotFoundError as error:
        if try_to_load_from_cache(root, name) is _CACHED_NO_EXIST:
            return None
        raise UserError(
            f"{root} is no folder here, and {name} of that name can not be fetched from the hub."
        ) from error
    except EntryNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{name} of {root} is no JSON: {error}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"There is no model at {root}: {str(error).splitlines()[0]}") from error
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{name} of {root} must hold a JSON object.")
    return values


def without_bars() -> None:
    """Load from now on without the progress bars of diffusers and transformers, which are no sentences of ours.

    Nor with diffusers' advice to install accelerate, which the core does without: it comes once for every network.
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("diffusers.models.modeling_utils", "diffusers.pipelines.pipeline_utils"):
        logging.getLogger(name).addFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "accelerate` was not found" not in record.getMessage()
