"""Loading one part of a released pair folder, once its files are known to be the released ones. Knows no Ray."""

from typing import TYPE_CHECKING, Any

from pangu.serve.handoff import Release

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

TEXT_FOLDERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
PARTS: dict[str, tuple[str, ...]] = {
    "structure": ("structure", "scheduler", *TEXT_FOLDERS),
    "texture": ("texture", "scheduler"),
    "decoder": ("vae", "scheduler"),
}
"""Subfolders of the pair folder that each pool reads; text is encoded where the structure is drawn."""


def load_part(release: Release, part: str) -> "PanGuDrawPipeline":
    """The pipeline of `release` with only the components of `part`.

    Raises:
        UserError: the folder is gone, a file is not the released one, or the two generators do not make a pair.
    """
    from pangu.errors import UserError
    from pangu.registry.manifest import Manifest

    folder = release.folder
    if not folder.is_dir():
        raise UserError(
            f"{folder} is gone; `pangu deploy --pair-version {release.pair_version}` fetches the release again."
        )
    manifest = Manifest.load(folder, release.sha256)
    manifest.check(folder, below=PARTS[part])
    manifest.check_file(folder, "model_index.json")
    return _load(folder, part)


def _load(folder: Any, part: str) -> "PanGuDrawPipeline":
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

    every = {name for names in PARTS.values() for name in names}
    absent: dict[str, Any] = dict.fromkeys(sorted(every - set(PARTS[part])))
    # The constructor checks the contracts of both generators, whichever of them is loaded here.
    pipeline = PanGuDrawPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    device = _device()
    return pipeline.to(device) if device != "cpu" else pipeline


def _device() -> str:
    """Ray shows a replica only the devices that it reserved."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
