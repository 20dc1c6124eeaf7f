"""Pixels -> image files. The same pixels and facts always give the same bytes, so no time of day goes in."""

import io
from collections.abc import Mapping
from typing import Any


def encode(image: Any, output_format: str, compression: int, facts: Mapping[str, str]) -> bytes:
    """A PIL image as a png, jpeg or webp file; a png carries `facts` as text chunks, readable by any viewer."""
    from PIL.PngImagePlugin import PngInfo

    file = io.BytesIO()
    if output_format == "png":
        chunks = PngInfo()
        for name, value in facts.items():
            # tEXt where Latin-1 is enough, iTXt (UTF-8) for prompts in Chinese.
            if value.isascii():
                chunks.add_text(name, value)
            else:
                chunks.add_itxt(name, value)
        image.save(file, "PNG", pnginfo=chunks)
    elif output_format == "jpeg":
        image.convert("RGB").save(file, "JPEG", quality=max(compression, 1))
    else:
        image.save(file, "WEBP", quality=compression, method=4)
    return file.getvalue()
