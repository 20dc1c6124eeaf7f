"""Where the pair of the package lies, and the encoders that it draws with; its folder holds neither."""

import hashlib
from pathlib import Path
from typing import Any

from pangu.config import AutoencoderSource, TextEncoderSource
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.init_weights import STARTER
from pangu.models.sources import locate
from pangu.models.text import load_text_tower


def embedded_pair() -> tuple[Path, dict[str, Any]]:
    """(folder of both halves, components that it lacks), in float32.

    Raises:
        UserError: this installation carries no pair.
    """
    folder = Path(locate("embedded", STARTER))
    if not folder.is_dir():
        raise UserError("This installation carries no starter pair; make one with `pangu starter pair`.")
    tower = load_text_tower(TextEncoderSource())
    return folder, {
        "vae": load_autoencoder(AutoencoderSource()),
        "tokenizer": tower.tokenizer,
        "text_encoder": tower.encoder,
    }


def embedded_digest() -> str:
    """8 hex digits of all embedded weights and configurations: another version of the package may carry others."""
    assets, digest = Path(locate("embedded", STARTER)).parent, hashlib.sha256()
    for path in sorted(assets.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(assets).as_posix()}|".encode() + path.read_bytes())
    return digest.hexdigest()[:8]
