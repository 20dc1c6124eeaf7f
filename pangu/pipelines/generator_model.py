"""A generator of a pipeline as the sampling engine asks it: the one that owns the timestep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor

from pangu.config import Role
from pangu.pipelines.acting_adapters import ActingAdapters
from pangu.pipelines.reused_steps import ReusedSteps, Way
from pangu.sampling.condition import Condition, Tensors
from pangu.sampling.question import Network, Question


@dataclass(frozen=True)
class GeneratorModel:
    """The generators of one pipeline as one model of the engine.

    pipe: whose contracts say who owns a timestep. role: whose turn it is, whatever the timestep; None leaves it to the contracts.
    lower_bchw: what the generators are conditioned on beside the text. attention: diffusers' `cross_attention_kwargs`.
    kept: of the one request that it draws, where halves of the pipeline may reuse steps; None: every step is computed.
    adapters: of the one request that it draws, beside those of its styles; for a model of one role.
    """

    pipe: Any
    role: Role | None = None
    lower_bchw: Tensor | None = None
    attention: Mapping[str, Any] | None = None
    kept: ReusedSteps | None = field(default=None, compare=False)
    adapters: ActingAdapters | None = field(default=None, compare=False)

    def expert(self, timestep: float) -> Role:
        """The generator that owns the CURRENT timestep (PanGu-Draw, Section 3.2); choosing by the next one instead would let one
        expert take a step of the other's interval.
        """
        return self.role or self.pipe.expert_at(timestep)

    def question(self, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition) -> Question:
        """One call of the expert at its own resolution preset, under its own adapter's scale, in the styles of the condition.

        Raises:
            UserError: nobody here owns the timestep, or this process does not hold its owner.
        """
        role = self.expert(float(timestep_b[0]))
        asked, acting = self._asked(role, noisy_bchw, timestep_b, tensors, condition), self.adapters
        if (styled := self.pipe.style_adapters(role, condition.adapters)) is not None:
            acting = styled.and_those(acting)
        return asked if acting is None else acting.on(asked, self.pipe)

    def _asked(
        self, role: Role, noisy_bchw: Tensor, timestep_b: Tensor, tensors: Tensors, condition: Condition
    ) -> Question:
        preset, scale = condition.facts["presets"][role], condition.facts.get("lora_scales", {}).get(role, 1.0)

        def asked(way: Way | None = None) -> Network:
            return Network(
                (id(self.pipe), role),
                scale,
                (preset, id(self.lower_bchw), id(self.attention), way),
                lambda: self.pipe.denoiser(role, preset, scale, self.lower_bchw, self.attention, way),
            )

        plain = Question(asked(), (noisy_bchw, timestep_b, tensors["tokens"], tensors["pooled"]))
        reuse = self.pipe.reuse.get(role)
        if self.kept is None or reuse is None or self.lower_bchw is not None or self.attention:
            return plain
        ways: dict[Way, Network] = {way: asked(way) for way in get_args(Way)}
        return self.kept.question(reuse, role, self.pipe.generator(role), condition, plain, ways)
