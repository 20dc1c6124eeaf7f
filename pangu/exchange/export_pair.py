"""`pangu export`: halves and adapters as others open them: diffusers' components, and single files in the original layout."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers import UNet2DConditionModel
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from pangu.config import Role, Sampling
from pangu.contract import CONTRACT_FILE, GeneratorContract
from pangu.errors import UserError
from pangu.exchange import comfyui
from pangu.exchange.network_weights import load_network, stored_weights
from pangu.exchange.pipeline_file import PIPELINE_FILE, pipeline_file
from pangu.models.lora import ADAPTER, check_contract, fitted, put_adapter, save_layers, save_lora
from pangu.models.lora_files import find_weights
from pangu.models.lora_spelling import kohya_tensors
from pangu.models.original_layout import check_layout, original_weights
from pangu.models.original_transformers import check_written, original_transformer
from pangu.models.single_files import network_shape
from pangu.models.style_adapters import StyleAdapters
from pangu.models.whole import INDEX
from pangu.pipelines.adapted_styles import component_of
from pangu.registry.fetch import pair_contracts
from pangu.storage import read_json, write_json

COMPONENTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SINGLE, ADAPTERS, COMFYUI = "single_files", "adapters", "comfyui"
BESIDE = (SINGLE, ADAPTERS, COMFYUI)


class Exported(BaseModel):
    """What `pangu export` wrote, by what it is. warnings: what a reader may stumble over."""

    model_config = ConfigDict(frozen=True)

    folder: str
    components: list[str]
    single_files: list[str]
    adapters: list[str]
    warnings: list[str]


def export_pair(
    pair: Path, folder: Path, original: bool = False, adapters: Sequence[Path] = (), role: Role | None = None
) -> Exported:
    """Write both halves of a pair folder, what they share, and adapters for them into `folder`, itself a pipeline folder.

    original: also one file for each half in the layout of the original code. role: the half of adapters without a contract.

    Raises:
        UserError: a half is not whole or has no original layout, an adapter does not fit, or the folder is in use.
    """
    contracts = pair_contracts(pair)
    halves = {name: pair / name for name in contracts}
    own = [name for name in read_json(pair / INDEX) if name.startswith(("text_encoder", "tokenizer"))]
    shared = [pair / name for name in dict.fromkeys((*COMPONENTS, *own)) if (pair / name).is_dir()]
    with TemporaryDirectory() as place:
        styles = _styles(pair, contracts, Path(place))
        return _export(halves, contracts, shared, folder, original, [*styles, *adapters], role, pair)


def export_generator_folder(
    generator: Path, folder: Path, original: bool = False, adapters: Sequence[Path] = ()
) -> Exported:
    """The same of one generator folder, such as a run's, with the adapter that it was trained as, if it was.

    Raises:
        UserError: as `export_pair`.
    """
    contract = GeneratorContract.load(generator)
    own = [generator / "lora"] if (generator / "lora").is_dir() else []
    return _export({contract.role: generator}, {contract.role: contract}, [], folder, original, [*own, *adapters], None)


def _export(
    halves: Mapping[Role, Path],
    contracts: Mapping[Role, GeneratorContract],
    shared: Sequence[Path],
    folder: Path,
    original: bool,
    adapters: Sequence[Path],
    role: Role | None,
    pair: Path | None = None,
) -> Exported:
    """pair: what makes one pipeline of the halves."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something already; name a new folder.")
    shapes = {name: network_shape(place) for name, place in halves.items()}
    if original:
        for shape in shapes.values():
            if isinstance(shape, UNet2DConditionModel):
                check_layout(shape.config, None if pair is None else _pooled(pair))
            else:
                check_written(shape)
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    warnings: list[str] = []
    known: dict[Role, str] = {}
    for name, place in halves.items():
        weights = stored_weights(place, shapes[name])
        _copy(place, fresh / name)
        if original:
            (fresh / SINGLE).mkdir(exist_ok=True)
            of_unet = isinstance(shapes[name], UNet2DConditionModel)
            single = (original_weights if of_unet else original_transformer)(shapes[name], weights)
            save_file(single, fresh / SINGLE / f"{name}.safetensors", metadata={"format": "pt"})
            known[name] = comfyui.known_as({key: tensor.shape for key, tensor in single.items()})
            if not known[name]:
                warnings.append(
                    f"No released model has the sizes of {name}, so programs that know models by size will not know it."
                )
    for place in shared:
        shutil.copytree(place, fresh / place.name)
    used: dict[str, Path] = {}
    for place in adapters:
        used |= _adapter(place, halves, contracts, role, fresh / ADAPTERS, used)
    if pair is not None:
        ours = {component_of(name) for name in contracts}
        write_json(fresh / INDEX, {key: part for key, part in read_json(pair / INDEX).items() if key not in ours})
        (fresh / PIPELINE_FILE).write_text(pipeline_file(pair))
        if original and all(known.values()):
            warnings += _for_comfyui(fresh / COMFYUI, pair, contracts, sorted(used), folder)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return Exported(
        folder=str(folder),
        components=sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in BESIDE),
        single_files=sorted(path.name for path in folder.glob(f"{SINGLE}/*")),
        adapters=sorted(used),
        warnings=warnings,
    )


def _styles(pair: Path, contracts: Mapping[Role, GeneratorContract], place: Path) -> list[Path]:
    """The styles of a pair that are adapters, as folders of adapters below `place`: others know them as such alone."""
    found = []
    for role, contract in contracts.items():
        if (folder := pair / component_of(role)).is_dir():
            styles = StyleAdapters.from_pretrained(folder)
            for style in styles.styles:
                found.append(place / role / style)
                save_layers(styles.matrices(style), contract, found[-1])
    return found


def _for_comfyui(
    place: Path, pair: Path, contracts: Mapping[Role, GeneratorContract], adapters: Sequence[str], folder: Path
) -> list[str]:
    """A workflow and where its files are, unless a half needs other noise levels than ComfyUI has; then the warning."""
    if any(contract.schedule.is_flow for contract in contracts.values()):
        return ["Workflows of ComfyUI are written for UNets alone; the single files are there."]
    if others := [role for role, contract in contracts.items() if not comfyui.takes_levels(contract)]:
        return [f"ComfyUI has other noise levels than {others[0]} was trained for, so no workflow was written."]
    index = read_json(pair / INDEX)
    prompts = [text for texts in (index.get("prompts") or {}).values() for text in texts] or ["a red fox"]
    encoders = [name for name in COMPONENTS if name.startswith("text_") and (pair / name).is_dir()]
    roles = {f"{name}.safetensors": role for name in adapters for role in contracts if name.startswith(f"{role}-")}
    sampling = Sampling.model_validate(index.get("sampling") or {})
    place.mkdir()
    for name in encoders:
        save_file(comfyui.text_weights(load_file(pair / name / "model.safetensors")), place / f"{name}.safetensors")
    files = [f"{name}.safetensors" for name in encoders]
    written = comfyui.workflow(contracts, sampling, prompts[0], files, roles, folder.name)
    (place / "workflow.json").write_text(written, encoding="utf-8")
    (place / "extra_model_paths.yaml").write_text(comfyui.model_paths(str(folder.absolute()), folder.name))
    return []


def _copy(half: Path, target: Path) -> None:
    """The network alone: an adapter beside it goes to the adapters."""
    target.mkdir(parents=True)
    for path in sorted(half.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors"):
            shutil.copyfile(path, target / path.name)


def _adapter(
    source: Path,
    halves: Mapping[Role, Path],
    contracts: Mapping[Role, GeneratorContract],
    role: Role | None,
    folder: Path,
    used: Mapping[str, Path],
) -> dict[str, Path]:
    """An adapter as `NAME/pytorch_lora_weights.safetensors`, diffusers', and, of a UNet, as `NAME.safetensors`, kohya's."""
    file = find_weights(source)
    own = file.parent / CONTRACT_FILE
    contract = GeneratorContract.load(file.parent) if own.is_file() else None
    wanted = contract.role if contract else role or (next(iter(halves)) if len(halves) == 1 else None)
    if wanted is None:
        raise UserError(f"The adapter at {source} has no {CONTRACT_FILE}; say by --role which half it is for.")
    if wanted not in halves:
        raise UserError(f"The adapter at {source} is for {wanted}, which is not exported here.")
    if contract:
        check_contract(contract, contracts[wanted], str(source))
    name = f"{wanted}-{file.stem if file.stem != 'pytorch_lora_weights' else source.name}"
    if name in used:
        raise UserError(f"{source} and {used[name]} would both be written as {name}; rename one.")
    network: Any = load_network(halves[wanted])
    layers = fitted(file, network, contracts[wanted], str(source))
    folder.mkdir(exist_ok=True)
    if isinstance(network, UNet2DConditionModel):  # the original code of each transformer has a spelling of its own
        save_file(kohya_tensors(layers, network), folder / f"{name}.safetensors")
    put_adapter(network, ADAPTER, layers)
    save_lora(network, contracts[wanted], folder / name)
    return {name: source}


def _pooled(pair: Path) -> int | None:
    """Channels of the pooled text, as the last text encoder's configuration says; None where the pair has none."""
    encoders = [pair / name / "config.json" for name in ("text_encoder_2", "text_encoder")]
    config: dict[str, Any] = next((read_json(path) for path in encoders if path.is_file()), {})
    projected = "WithProjection" in str(config.get("architectures"))
    width = config.get("projection_dim") if projected else config.get("hidden_size")
    return int(width) if width else None
