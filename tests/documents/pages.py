"""What a reader has before the Python of a page begins: models under the names that it uses, pictures, a server, a dataset."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.pipelines.coop import small

SIDES = {"1024": "32", "512": "16"}
"""Of the models here, in the place of those that the documents speak of; pairs draw 96 px."""
PAIR_SIDES = {"1024": "96", "512": "48"}


def whole_stable_diffusion_3() -> Any:
    """With the third text encoder, without which diffusers loads no folder."""
    from transformers import T5EncoderModel

    pipe = small.stable_diffusion_3()
    config = small.t5().config
    config.d_model = pipe.transformer.config.joint_attention_dim
    pipe.register_modules(text_encoder_3=T5EncoderModel(config), tokenizer_3=small.tokenizer())
    return pipe


def pair_of_transformers() -> Any:
    from pangu.config import Recipe
    from pangu.pipelines.assemble import untrained_pair
    from tests.pipelines.transformers import flow_recipe

    shape = {"family": "sd3", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    return untrained_pair(Recipe.model_validate(flow_recipe().model_dump() | {"denoiser": shape}))


MODELS: dict[str, Callable[[], Any]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": small.stable_diffusion,
    "stabilityai/stable-diffusion-3-medium-diffusers": whole_stable_diffusion_3,
    "stabilityai/stable-diffusion-xl-base-1.0": small.sdxl,
    "lambdalabs/sd-image-variations-diffusers": lambda: small.image_variation(1),
    "lllyasviel/control_v11p_sd15_openpose": lambda: small.controlnet(small.unet()),
    "lllyasviel/control_v11p_sd15_canny": lambda: small.controlnet(small.unet()),
    "style-model": lambda: small.stable_diffusion(2),
    "sdxl-folder": small.sdxl,
    "sd15-folder": small.stable_diffusion,
    "path/or/hub-id/of/a-new-model": whole_stable_diffusion_3,
    "an-old-model": small.stable_diffusion,
    "TRANSFORMER_PAIR": pair_of_transformers,
    "its-edge-controlnet": lambda: small.controlnet(small.unet()),
}
PAIRS = ("pair-folder", "PAIR_FOLDER", "var/pairs/...")


@dataclass
class Reader:
    """Where a page is worked through, and what is there. names: what the text says that the reader has."""

    folder: Path
    pair: Path
    url: str = ""
    names: dict[str, Any] = field(default_factory=dict)

    def typed(self, code: str) -> str:
        """The code as this reader types it: own names of models, small sizes, few steps, no GPU."""
        sides = PAIR_SIDES if any(f'"{name}"' in code for name in PAIRS) else SIDES
        for name, build in MODELS.items():
            if f'"{name}"' in code:
                place = self.folder / "models" / name.replace("/", "--")
                if not place.exists():
                    build().save_pretrained(place)
                code = code.replace(f'"{name}"', f'"{place}"')
        for name in PAIRS:
            code = code.replace(f'"{name}"', f'"{self.pair}"')
        for large, little in sides.items():
            code = re.sub(rf"\b{large}\b", little, code)
        for picture in re.findall(r'Image.open\("(.*?)"\)', code):
            Image.new("RGB", (16, 16), "gray").save(self.folder / picture)
        code = re.sub(r"(num_inference_steps\"?\s*[=:]\s*)\d+", r"\g<1>4", code)
        code = re.sub(r'^(\w+ = )?coop\("', r'\1coop(num_inference_steps=2, prompt="', code, flags=re.MULTILINE)
        code = code.replace('.to("cuda")', '.to("cpu")').replace('source="other"', 'source="embedded"')
        return code.replace("http://127.0.0.1:8000", self.url) if self.url else code


def three_experts(reader: Reader) -> dict[str, Any]:
    """Generator folders of three experts of the tiny pair that take turns, and where a pipeline of them goes."""
    from pangu.contract import GeneratorContract
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.recipes import tiny

    pair = PanGuDrawPipeline.from_pretrained(reader.pair)
    usual = GeneratorContract.model_validate(pair.config.contracts["structure"])
    names: dict[str, Any] = {"recipe": tiny(), "folder": reader.folder / "joined", "pair": pair}
    for name, low, high in (("structure", 700, 1000), ("middle", 300, 700), ("texture", 0, 300)):
        names[name] = reader.folder / name
        pair.structure.save_pretrained(names[name])
        usual.model_copy(update={"low": low, "high": high}).save(names[name])
    return names


def adapters(reader: Reader) -> dict[str, Any]:
    """A pair, the adapters of two runs of it, one of another run, and one in kohya's spelling."""
    from safetensors.torch import save_file

    from pangu.config import ROLES, LoraConfig
    from pangu.models.lora import add_lora, save_lora
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from tests.models.adapter_files import random_adapter, spelled

    pair = PanGuDrawPipeline.from_pretrained(reader.pair)
    spare = PanGuDrawPipeline.from_pretrained(reader.pair)
    texture = spare.texture
    save_file(spelled(texture, random_adapter(texture, ("to_q", "to_v")), "kohya"), reader.folder / "ink.safetensors")
    for number, role in enumerate(ROLES):
        network = spare.components[role]
        add_lora(network, LoraConfig(rank=4, alpha=4), seed=number)
        for run in (f"{role}-run", "fox")[: 2 if role == "texture" else 1]:
            save_lora(network, spare.contract(role), reader.folder / run / "generator/lora")
    return {"pipe": pair, "prompt": "fox"}


PREPARED: dict[str, Callable[[Reader], dict[str, Any]]] = {
    "docs/pipelines.md": three_experts,
    "docs/training.md": adapters,
}
