"""What each prompt's image reached, kept beside the means, so that two pairs can be compared prompt by prompt."""

from pathlib import Path

import numpy as np
from pydantic import Field

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.storage import read_json, write_json

SUFFIX = ".prompts.json"


class PromptScores(Frozen):
    """What a pair's images reached, prompt by prompt."""

    values: dict[str, dict[str, float]] = Field(
        description="Metric with its language, e.g. `understanding_top1_zh` -> key of the row whose caption was drawn -> value"
    )
    own_steps: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Steps that the pair took, where those of the protocol leave one of its experts without a step",
    )

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(list(of.values()))) for name, of in self.values.items()}

    def save(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "PromptScores":
        """Raises UserError if the file is not there or holds something else."""
        try:
            return cls.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} holds no scores by prompt; run `pangu evaluate` again, which writes them."
            ) from error
