"""Is what an earlier run left still all there? Looked at before a stage calls its work already done."""

import json
from pathlib import Path
from typing import Any

INDEX = "model_index.json"
MODEL = "config.json"


def is_whole_model(folder: Path) -> bool:
    """Whether a model's folder has its configuration, and weight files that are as long as their headers say."""
    return _is_json(folder / MODEL) and _all_readable(folder)


def is_whole_pipeline(folder: Path) -> bool:
    """Whether a pipeline's folder has every part that its index names, and every model of them its weights."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError):
        return False
    named = [name for name, value in index.items() if _is_component(value)]
    return all(_is_whole_part(folder / name) for name in named if not name.startswith("_"))


def _is_component(value: Any) -> bool:
    """A library and a class; two text layers, or two answers, are lists of two as well."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)


def _is_whole_part(folder: Path) -> bool:
    """A part without `config.json` is a tokenizer or a scheduler, which has no weights."""
    if (folder / MODEL).exists():
        return is_whole_model(folder)
    return any(_is_json(path) for path in folder.glob("*_config.json"))


def _all_readable(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        files = set(folder.glob("*.safetensors"))
        for index in folder.glob("*.safetensors.index.json"):
            files |= {folder / name for name in json.loads(index.read_bytes())["weight_map"].values()}
        for path in files:
            with safe_open(path, "numpy"):
                pass
    except (OSError, SafetensorError, ValueError, KeyError):
        return False
    return bool(files)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True
