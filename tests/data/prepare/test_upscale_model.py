"""Upscalers that a card brings along: real architectures of spandrel with small random weights, written as safetensors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pangu.data.card import Card
from pangu.data.example import openmoji
from pangu.data.images import decode_rgb
from pangu.data.ingest.stage import ingest
from pangu.data.prepare import upscale_model
from pangu.data.prepare.stage import prepare
from pangu.data.prepare.upscale import upscaler_of
from pangu.data.prepare.upscale_model import LoadedUpscaler, _spandrel
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests

IMAGE = decode_rgb(openmoji.render_png(openmoji.selection(4)[2], 96)).image_hwc[:, :80]


def esrgan(scale: int) -> torch.nn.Module:
    _spandrel()
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(num_filters=8, num_blocks=1, scale=scale)


def span(scale: int) -> torch.nn.Module:
    _spandrel()
    from spandrel.architectures.SPAN import SPAN

    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=scale)


def swinir(scale: int) -> torch.nn.Module:
    _spandrel()
    from spandrel.architectures.SwinIR import SwinIR

    shape = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "img_size": 32, "mlp_ratio": 2.0}
    return SwinIR(upscale=scale, upsampler="pixelshuffledirect", **shape)


def written(network: torch.nn.Module, file: Path) -> Path:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return file


@subtests.parametrize(("make", "scale"), [(esrgan, 2), (esrgan, 4), (span, 4), (swinir, 2)])
def test_the_network_in_the_file_enlarges_by_its_factor(make, scale: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make(scale).eval()
    upscaler = LoadedUpscaler(written(network, tmp_path / "mine.safetensors"), "cpu")
    assert upscaler.factor == scale and upscaler.name.startswith("mine@")
    small = np.ascontiguousarray(IMAGE[:40, :32])
    with torch.inference_mode():
        true = network(torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255)[0].clamp(0, 1)
    enlarged = upscaler.upscale(small)
    assert enlarged.shape == (40 * scale, 32 * scale, 3) and enlarged.dtype == np.uint8
    assert np.abs(enlarged - 255 * true.permute(1, 2, 0).numpy()).max() <= 0.51


def test_tiles_of_a_network_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    file = written(esrgan(2), tmp_path / "mine.safetensors")
    whole = LoadedUpscaler(file, "cpu").upscale(IMAGE).astype(int)
    monkeypatch.setattr(upscale_model, "TILE", 24)
    assert np.abs(LoadedUpscaler(file, "cpu").upscale(IMAGE) - whole).max() <= 1
    monkeypatch.setattr(upscale_model, "SEEN", 0)
    assert np.abs(LoadedUpscaler(file, "cpu").upscale(IMAGE) - whole).max() > 1  # without overlap there would be seams


def test_rows_say_which_weights_made_them_and_other_weights_make_a_new_version(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index, one in enumerate(openmoji.selection(3)):
        (source / f"{index}.png").write_bytes(openmoji.render_png(one, 48 if index else 96))
        (source / f"{index}.txt").write_text("a drawing")
    upscale = {"target_side": 64, "model": "mine.safetensors", "device": "cpu", "min_timestep": 300}
    columns, licence = {"caption_en": "txt"}, {"name": "CC0"}
    facts = {"name": "enlarged", "source": str(source), "columns": columns, "licence": licence, "texture_min_side": 64}
    card, home = Card.model_validate({**facts, "upscale": upscale}), Home(tmp_path / "home")
    card._folder = tmp_path
    ingested, made = ingest(card, home).ingest_id, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        file = written(esrgan(2), tmp_path / "mine.safetensors")
        outcome = prepare(card, ingested, home)
        assert prepare(card, ingested, home).already_done
        rows = read_rows(home, "enlarged", outcome.version).to_pylist()
        name = LoadedUpscaler(file, "cpu").name
        # Random weights are seldom faithful, and then Lanczos does it.
        assert {row["upscaler"] for row in rows if row["upscaled"]} <= {name, "lanczos"}
        made.append((outcome.version, name))
    assert made[0][0] != made[1][0] and made[0][1] != made[1][1]


def test_what_cannot_enlarge_is_one_sentence_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(file: Path, device: str = "cpu") -> str:
        with pytest.raises(UserError) as error:
            LoadedUpscaler(file, device)
        return str(error.value)

    good = written(esrgan(2), tmp_path / "good.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "strange.safetensors")
    assert "must be a .safetensors file" in refusal(tmp_path / "model.pth")
    assert "cannot be read as safetensors" in refusal(tmp_path / "torn.safetensors")
    assert "no network that spandrel knows" in refusal(tmp_path / "strange.safetensors")
    assert "does not enlarge RGB images" in refusal(written(esrgan(1), tmp_path / "one.safetensors"))
    if not torch.cuda.is_available():
        assert "there is no CUDA device here" in refusal(good, "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "install PanGu with its extra `gpu`" in refusal(good)


def test_spandrel_leaves_no_trace_of_torchvision() -> None:
    _spandrel()
    assert "spandrel" in sys.modules
    assert "torchvision" not in sys.modules or sys.modules["torchvision"].__file__


def test_an_upscaler_runs_only_where_it_can() -> None:
    def refusal(**upscale: object) -> str:
        with pytest.raises(ValueError, match="device") as error:
            Card.model_validate(
                {
                    "name": "x",
                    "source": "x.csv",
                    "columns": {"caption_en": "en"},
                    "licence": {"name": "-"},
                    "upscale": upscale,
                }
            )
        return str(error.value)

    assert "SPAN runs on cpu or vulkan" in refusal(device="cuda")
    assert "a model runs on cpu or cuda" in refusal(device="vulkan", model="x.safetensors")


def test_vulkan_enlarges_like_the_cpu_or_is_refused_where_there_is_none() -> None:
    import ncnn

    card = Card.model_validate(
        {
            "name": "x", "source": "x.csv", "columns": {"caption_en": "en"}, "licence": {"name": "-"},
            "upscale": {"device": "vulkan"},
        }
    )  # fmt: skip
    if not ncnn.get_gpu_count():
        with pytest.raises(UserError, match="no Vulkan driver or device"):
            upscaler_of(card)
        return
    cpu = upscaler_of(card.model_copy(update={"upscale": card.upscale.model_copy(update={"device": "cpu"})}))
    assert np.abs(upscaler_of(card).upscale(IMAGE).astype(int) - cpu.upscale(IMAGE)).max() <= 2
