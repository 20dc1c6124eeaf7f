"""What a pipeline says of the call that runs: the names that diffusers' callbacks and user interfaces look for."""

from collections.abc import Mapping
from typing import Any


class CallState:
    """Mixed into a `DiffusionPipeline`. Between calls, the values are those of the last one.

    A callback or another thread may set `_guidance_scale`, and `_interrupt = True`, which ends the loop after the step that runs:
    the latents are decoded as they are.
    """

    _guidance_scale: float = 1.0
    _guidance_rescale: float = 0.0
    _cross_attention_kwargs: Mapping[str, Any] | None = None
    _num_timesteps: int = 0
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """At most 1 means the caption alone."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether networks are asked for the negative prompt too."""
        return self._guidance_scale > 1

    @property
    def guidance_rescale(self) -> float:
        """phi of arXiv 2305.08891, Section 3.4."""
        return self._guidance_rescale

    @property
    def cross_attention_kwargs(self) -> Mapping[str, Any] | None:
        """What the attention processors of the networks are given."""
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """Calls of the scheduler in the loop that runs."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the loop has been asked to end."""
        return self._interrupt

    def _begin_call(
        self, guidance_scale: float, guidance_rescale: float = 0.0, cross_attention: Mapping[str, Any] | None = None
    ) -> None:
        self._guidance_scale, self._guidance_rescale = guidance_scale, guidance_rescale
        self._cross_attention_kwargs, self._interrupt = cross_attention, False
