"""For ComfyUI: whether its loader will know an exported half, and a workflow in which both halves take turns.

It has no configuration beside the weights: it looks at names and shapes, and takes the model of its list that has them.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from pangu.config import Role, Sampling
from pangu.contract import GeneratorContract, in_turn
from pangu.models.original_layout import PREFIX

KNOWN = {
    "Stable Diffusion 1": (320, False, 768, None, None),
    "Stable Diffusion 2": (320, True, 1024, None, None),
    "SDXL": (320, True, 2048, 2816, (0, 0, 2, 2, 10, 10)),
    "SSD-1B": (320, True, 2048, 2816, (0, 0, 2, 2, 4, 4)),
    "Segmind Vega": (320, True, 2048, 2816, (0, 0, 1, 1, 2, 2)),
    "SDXL refiner": (384, True, 1280, 2560, (0, 0, 4, 4, 4, 4, 0, 0)),
}
"""Model -> channels of the first convolution, whether attention is entered by a matrix, not a convolution, channels of text and
of the added condition, and transformer blocks behind each residual block on the way down (None: any)."""
TRANSFORMERS: dict[str, dict[str, tuple[int, ...]]] = {
    "FLUX.1": {"img_in.weight": (3072, 64), "txt_in.weight": (3072, 4096), "vector_in.in_layer.weight": (3072, 768)},
    "Qwen-Image": {"img_in.weight": (3072, 64), "txt_norm.weight": (3584,)},
    "Z-Image": {"cap_embedder.1.weight": (3840, 2560)},
    "Wan 1.3B": {"head.modulation": (1, 2, 1536), "text_embedding.0.weight": (1536, 4096)},
    "Wan 14B": {"head.modulation": (1, 2, 5120), "text_embedding.0.weight": (5120, 4096)},
}
"""Model -> tensors whose sizes its loader takes for given. Stable Diffusion 3 is known by as many blocks as heads of 64."""
BETAS = (0.00085, 0.012, "scaled_linear", 1000)
"""The noise levels of all of them: first and last beta, how they rise, and how many there are."""


def known_as(shapes: Mapping[str, Sequence[int]]) -> str:
    """The model that a file with tensors of these names and shapes is taken for; "" for none."""
    first = shapes.get(f"{PREFIX}input_blocks.0.0.weight")
    if first is None:
        return _transformer({name.removeprefix(PREFIX): shape for name, shape in shapes.items()})
    depths: list[int] = []
    context, matrix = None, False
    for block in count(1):
        inside = f"{PREFIX}input_blocks.{block}."
        if not any(name.startswith(inside) for name in shapes):
            break
        if f"{inside}0.in_layers.0.weight" not in shapes:
            continue  # it halves the resolution
        blocks = (f"{inside}1.transformer_blocks.{number}.attn2.to_k.weight" for number in count())
        keys = [shapes[name] for name in _until_missing(blocks, shapes)]
        depths.append(len(keys))
        if keys and context is None:
            context, matrix = keys[0][1], len(shapes[f"{inside}1.proj_in.weight"]) == 2
    added = shapes.get(f"{PREFIX}label_emb.0.0.weight")
    found = (first[0], matrix, context, added[1] if added else None)
    for name, (*sizes, expected) in KNOWN.items():
        if found == tuple(sizes) and expected in (None, tuple(depths)):
            return name
    return ""


def _transformer(shapes: Mapping[str, Sequence[int]]) -> str:
    blocks = {name.split(".")[1] for name in shapes if name.startswith("joint_blocks.")}
    if blocks and shapes.get("x_embedder.proj.weight", [0])[0] == 64 * len(blocks):
        return "Stable Diffusion 3"
    for name, sizes in TRANSFORMERS.items():
        if all(tuple(shapes.get(tensor, ())) == size for tensor, size in sizes.items()):
            return name
    return ""


def takes_levels(contract: GeneratorContract) -> bool:
    """Whether a half predicts noise or v over the noise levels that ComfyUI gives these models."""
    schedule = contract.schedule
    own = (schedule.beta_start, schedule.beta_end, schedule.beta_schedule, schedule.num_train_timesteps)
    return not schedule.is_flow and own == BETAS and schedule.prediction_type in ("epsilon", "v_prediction")


def structure_steps(boundary: int, steps: int) -> int:
    """How many of `steps` belong to the structure half, in ComfyUI's scheduler `normal`: timesteps evenly from 999 down to 0."""
    return int((np.linspace(BETAS[3] - 1, 0, steps) >= boundary).sum())


def workflow(
    contracts: Mapping[Role, GeneratorContract],
    sampling: Sampling,
    prompt: str,
    encoders: Sequence[str],
    adapters: Mapping[str, Role],
    name: str,
) -> str:
    """A `KSampler (Advanced)` node for each expert and its timesteps, in the JSON that ComfyUI's server takes as a prompt.

    encoders: files of one or two text encoders. adapters: file -> its half. Names are as `model_paths` makes them found.
    """
    steps, guidance = sampling.num_inference_steps, sampling.guidance_scale
    side, roles = contracts["structure"].resolution, list(in_turn(contracts))
    ends = [structure_steps(contracts[role].low, steps) for role in roles[:-1]] + [steps]
    clip = (
        {"class_type": "CLIPLoader", "inputs": {"clip_name": encoders[0], "type": "stable_diffusion"}}
        if len(encoders) == 1
        else {
            "class_type": "DualCLIPLoader",
            "inputs": {"clip_name1": encoders[0], "clip_name2": encoders[1], "type": "sdxl"},
        }
    )
    nodes: dict[str, Any] = {
        "clip": clip,
        "prompt": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": ["clip", 0]}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["clip", 0]}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": side, "height": side, "batch_size": 1}},
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "diffusion_pytorch_model.safetensors"}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample_texture", 0], "vae": ["vae", 0]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": name}},
    }
    for number, role in enumerate(roles):
        first, last = number == 0, number == len(roles) - 1
        nodes |= _network(role, contracts[role], [file for file, half in adapters.items() if half == role])
        nodes[f"sample_{role}"] = {
            "class_type": "KSamplerAdvanced",
            "inputs": {
                "model": [f"levels_{role}", 0], "positive": ["prompt", 0], "negative": ["negative", 0],
                "latent_image": ["latent" if first else f"sample_{roles[number - 1]}", 0], "noise_seed": 0, "steps": steps,
                "cfg": guidance, "sampler_name": "euler", "scheduler": "normal",
                "start_at_step": 0 if first else ends[number - 1], "end_at_step": ends[number],
                "add_noise": "enable" if first else "disable", "return_with_leftover_noise": "disable" if last else "enable",
            },
        }  # fmt: skip
    return json.dumps(nodes, indent=2, ensure_ascii=False) + "\n"


def text_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a CLIP text model by the names that ComfyUI knows; transformers 5 leaves the first word away."""
    own = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(own) else name: tensor for name, tensor in weights.items()}


def model_paths(folder: str, name: str) -> str:
    """`extra_model_paths.yaml`: where ComfyUI finds the files of an exported folder, which need not be copied for it."""
    lines = {
        "base_path": folder,
        "diffusion_models": "single_files",
        "vae": "vae",
        "text_encoders": "comfyui",
        "loras": "adapters",
    }
    return "\n".join([f"{name}:", *(f"  {key}: {json.dumps(value)}" for key, value in lines.items())]) + "\n"


def _network(role: Role, contract: GeneratorContract, adapters: Sequence[str]) -> dict[str, Any]:
    """The half of a role with its adapters, told what it predicts: nodes up to `levels_ROLE`."""
    nodes: dict[str, Any] = {
        f"load_{role}": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": f"{role}.safetensors", "weight_dtype": "default"},
        }
    }
    last = f"load_{role}"
    for number, file in enumerate(adapters):
        made = f"adapter_{role}_{number}"
        inputs = {"model": [last, 0], "lora_name": file, "strength_model": 1.0}
        nodes[made] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
        last = made
    predicts = "eps" if contract.schedule.prediction_type == "epsilon" else "v_prediction"
    zero = contract.schedule.rescale_betas_zero_snr
    inputs = {"model": [last, 0], "sampling": predicts, "zsnr": zero}
    return nodes | {f"levels_{role}": {"class_type": "ModelSamplingDiscrete", "inputs": inputs}}


def _until_missing(names: Any, there: Mapping[str, Any]) -> list[str]:
    found = []
    for name in names:
        if name not in there:
            break
        found.append(name)
    return found
