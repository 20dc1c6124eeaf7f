"""A half that takes few steps through its interval, in the place of its teacher's many."""

from pydantic import Field

from pangu.config.tree import Frozen


class Distillation(Frozen):
    """How a job teaches a student: the network that `init_from` names is the teacher, and what the student starts from.

    Phased consistency distillation (arXiv 2405.18407): the interval is cut into `steps` segments, and from everywhere in a
    segment the student lands where the teacher's guided trajectory leaves it. The halves of a pair need not know of each other.
    """

    steps: int = Field(2, ge=1, le=50, description="Segments of the interval, which are the student's steps through it")
    guidance_scale: float = Field(
        3.0, ge=1, le=50, allow_inf_nan=False, description="Guidance of the teacher; the student has it built in"
    )
    stride: int = Field(25, ge=1, le=1000, description="Timesteps that the teacher goes in one step")
