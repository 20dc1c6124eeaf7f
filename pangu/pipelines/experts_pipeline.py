"""Any number of experts in one trajectory, each with its own noise levels, prediction, size and, if need be, its own text.

The paper's pair is the case of two that share all but their interval; it has a class of its own (`PanGuDrawPipeline`).
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pangu.config import MIDDLE_ROLES, ROLES, Role, TextJoin
from pangu.contract import GeneratorContract, in_turn
from pangu.errors import UserError
from pangu.models.sources import read_config
from pangu.models.text import TextTower
from pangu.pipelines.encode_prompts import Reader
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

READERS: tuple[Role, ...] = (*MIDDLE_ROLES, "texture")
"""Experts that may have text encoders of their own; those of the pipeline are structure's."""
KINDS: dict[str, Any] = {"tokenizer": PreTrainedTokenizerBase | None, "text_encoder": PreTrainedModel | None}
PLACES = ("", "_2", "_3")
"""What the names of text towers end with."""
THIRD = {f"{kind}_3": KINDS[kind] for kind in KINDS}
OWN_TEXT = THIRD | {f"{kind}_of_{role}{place}": KINDS[kind] for role in READERS for place in PLACES for kind in KINDS}
SETTINGS = ("own_text", "templates")


class ExpertsPipeline(PanGuDrawPipeline):
    """Experts of one latent space, the noisiest first: structure, middle, middle_2, ... and texture.

    Called like the pair. A trajectory runs in the noise levels of structure, whose scheduler is the pipeline's.

    Args:
        middle, middle_2, ...: the networks between structure and texture; the others as for `PanGuDrawPipeline`.
        tokenizer_3, text_encoder_3: a third text tower. tokenizer_of_ROLE, text_encoder_of_ROLE, the same with _2 and _3: text
            towers that an expert has in the place of those of structure.
        contracts: the interval contracts of all experts.
        own_text: role -> `hidden_layers` and `sees_padding` of its towers, as those of the pipeline, `joins` (`TextJoin`) where
            they say so, and `aesthetic_scores` of prompts and of negative ones for networks that are told them (SDXL's refiner).
        templates: role -> what it is told, with {} for the prompt.

    Raises:
        UserError: the contracts leave a gap, overlap, or are not of one latent space, or an expert lacks its text encoders.
    """

    model_cpu_offload_seq = "->".join(
        ("text_encoder", "text_encoder_2", *(name for name in OWN_TEXT if name.startswith("text")), "structure", *MIDDLE_ROLES,
         "texture", "vae")
    )  # fmt: skip
    _optional_components = [*PanGuDrawPipeline._optional_components, *MIDDLE_ROLES, *OWN_TEXT]  # noqa: RUF012

    def __init__(self, **given: Any) -> None:
        DiffusionPipeline.__init__(self)
        bound = inspect.signature(type(self)).bind(**given)
        bound.apply_defaults()
        parts = {name: part for name, part in bound.arguments.items() if name in self._components()}
        self.register_modules(**parts)
        rest = {name: value for name, value in bound.arguments.items() if name not in parts}
        defaults: dict[str, Any] = {name: {} for name in ("styles", "sampling", "prompts", *SETTINGS)}
        self._configure(
            [parts[role] for role in (*ROLES, *MIDDLE_ROLES) if parts[role] is not None],
            **{name: value if value is not None else defaults.get(name) for name, value in rest.items()},
        )

    @classmethod
    def _components(cls) -> set[str]:
        return {*cls._optional_components, "scheduler"}

    def _roles(self, settings: Mapping[str, Any]) -> tuple[Role, ...]:
        for role in MIDDLE_ROLES:
            if getattr(self, role) is not None and role not in settings["contracts"]:
                raise UserError(
                    f"The {role} generator has no interval contract; say in contracts which timesteps it owns."
                )
        return tuple(in_turn(settings["contracts"]))

    def _check_texts(self, contracts: Mapping[Role, GeneratorContract]) -> None:
        first = contracts["structure"].text_encoder_hashes
        for role, contract in contracts.items():
            own = self._own_towers(role)
            if self.text_encoder is not None and contract.text_encoder_hashes != first and not own:
                raise UserError(
                    f"The {role} generator was trained with other text encoders than structure; give it its own as "
                    f"tokenizer_of_{role} and text_encoder_of_{role}."
                )
        for role, template in (self.config.templates or {}).items():
            if role not in contracts or "{}" not in template:
                raise UserError(
                    f"templates gives {role} '{template}'; each must name an expert and hold {{}} for the prompt."
                )

    def generator(self, role: Role) -> Any:
        return self.components[role]

    def towers_of(self, role: Role) -> list[TextTower]:
        return self._own_towers(role) or self.text_towers

    @property
    def text_towers(self) -> list[TextTower]:
        usual = {"hidden_layers": self.config.hidden_layers, "sees_padding": self.config.sees_padding}
        return self._towers_at("", usual | (self.config.own_text or {}).get("structure", {}))

    def _own_towers(self, role: Role) -> list[TextTower]:
        return [] if role == "structure" else self._towers_at(f"_of_{role}", (self.config.own_text or {}).get(role, {}))

    def _towers_at(self, of: str, ways: Mapping[str, Any]) -> list[TextTower]:
        found = []
        for place, end in enumerate(PLACES):
            encoder = getattr(self, f"text_encoder{of}{end}", None)
            if encoder is not None:
                layer, padding, join = (
                    ways.get(name, usual)[place]
                    for name, usual in (
                        ("hidden_layers", [-1] * 3),
                        ("sees_padding", [False] * 3),
                        ("joins", [None] * 3),
                    )
                )
                way = None if join is None else TextJoin.model_validate(join)
                found.append(TextTower(getattr(self, f"tokenizer{of}{end}"), encoder, layer, padding, way))
        return found

    def scores(self, role: Role | None) -> tuple[float, float] | None:
        told = (self.config.own_text or {}).get(role, {}).get("aesthetic_scores")
        return None if told is None else (float(told[0]), float(told[1]))

    def _own_readers(self) -> dict[Role, Reader]:
        told = self.config.templates or {}
        own = [role for role in self._contracts if role in told or self._own_towers(role) or self.scores(role)]
        return super()._own_readers() | {role: self._reader(role) for role in own}

    def worded(self, role: Role, prompts: list[str]) -> list[str]:
        template = (self.config.templates or {}).get(role, "{}")
        return [template.replace("{}", prompt) for prompt in prompts]


def load_pair(folder: str | Path, **options: Any) -> PanGuDrawPipeline:
    """The pipeline of a pair folder of ours: a pair, or experts. options: as `from_pretrained` takes them.

    Raises:
        UserError: its contracts do not fit each other, or what it holds.
    """
    index = read_config(str(folder), "model_index.json") or {}
    kind = ExpertsPipeline if index.get("_class_name") == ExpertsPipeline.__name__ else PanGuDrawPipeline
    loaded: PanGuDrawPipeline = kind.from_pretrained(folder, use_safetensors=True, **options)
    return loaded


def _signature() -> inspect.Signature:
    """diffusers reads the components of a class from its constructor."""
    pair = inspect.signature(PanGuDrawPipeline.__init__).parameters
    networks = dict.fromkeys(MIDDLE_ROLES, pair["structure"].annotation)
    known = [*pair.values()]
    optional = [each.replace(default=None) for each in known if each.name in PanGuDrawPipeline._optional_components]
    needed = [each for each in known if each.name in ("self", "scheduler")]
    settings = [
        each for each in known if each not in needed and each.name not in PanGuDrawPipeline._optional_components
    ]
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    further = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in [
            *networks.items(),
            *OWN_TEXT.items(),
            *dict.fromkeys(SETTINGS, dict[str, Any] | None).items(),
        ]
    ]
    return inspect.Signature([*needed, *optional, *settings, *further])


ExpertsPipeline.__init__.__signature__ = _signature()  # type: ignore[attr-defined]
