"""Switches of memory and quality that diffusers' pipelines have, for every autoencoder and network of a pipeline."""

from typing import Any

from pangu.errors import UserError


class Switches:
    """Mixed into a `DiffusionPipeline`."""

    @property
    def _autoencoders(self) -> list[Any]:
        raise NotImplementedError

    @property
    def _denoisers(self) -> list[Any]:
        raise NotImplementedError

    def enable_vae_slicing(self) -> None:
        """Encode and decode the pictures of a batch one after the other."""
        self._switch(self._autoencoders, "enable_slicing")

    def disable_vae_slicing(self) -> None:
        """Encode and decode a batch at once."""
        self._switch(self._autoencoders, "disable_slicing")

    def enable_vae_tiling(self) -> None:
        """Encode and decode large pictures in tiles that overlap."""
        self._switch(self._autoencoders, "enable_tiling")

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole pictures."""
        self._switch(self._autoencoders, "disable_tiling")

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """FreeU (arXiv 2309.11497): scales of the skip connections (s) and of the backbone (b) at the first two up blocks."""
        self._switch(self._denoisers, "enable_freeu", s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """Networks as they were trained."""
        self._switch(self._denoisers, "disable_freeu")

    def _switch(self, parts: list[Any], name: str, **arguments: Any) -> None:
        lacking = [type(part).__name__ for part in parts if not hasattr(part, name)]
        if lacking or not parts:
            raise UserError(
                f"{name} can not be asked of {lacking[0] if lacking else 'a pipeline without such a part'}."
            )
        for part in parts:
            getattr(part, name)(**arguments)
