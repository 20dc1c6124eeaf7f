"""Half the bytes of the weights, nearly the same picture, and latents that stay exact between the steps."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.errors import UserError
from pangu.exchange.quantise_pair import quantise_pair
from pangu.models.lora_formats import LowRank
from pangu.models.row_adapters import RowAdapters
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import tiny
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.parts import dtype_of, load_unchecked, release_of
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import PoolSettings, Precision, ServeSettings
from pangu.storage import Home
from tests.serve.inference.test_finite import asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("precision") / "pair"
    save_pair(untrained_pair(tiny()), found)
    return found


def drawn(folder: Path, precision: Precision) -> np.ndarray:
    """A picture over HTTP, (H, W, 3)."""
    pool = PoolSettings(precision=precision, threads=1)
    settings = ServeSettings(structure=pool, texture=pool, decoder=pool, cache_bytes=0)
    engine = LocalEngine(settings, Metrics(), load=load_unchecked)
    try:
        engine.routing = ReleaseRouting(champion=release_of(folder))
        answer = asked(engine, Metrics())
    finally:
        engine.close()
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    return np.asarray(picture.convert("RGB"), np.float32)


def test_bf16_draws_nearly_the_picture_of_fp32(folder: Path) -> None:
    plain, half = (drawn(folder, precision) for precision in ("fp32", "bf16"))
    assert not np.array_equal(plain, half)
    assert 10 * np.log10(255**2 / np.square(plain - half).mean()) > 25


def test_where_there_is_no_gpu_auto_is_fp32(folder: Path) -> None:
    assert torch.cuda.is_available() or dtype_of("auto") == torch.float32
    assert dtype_of("bf16") == torch.bfloat16
    assert np.array_equal(drawn(folder, "auto"), drawn(folder, "fp32")) or torch.cuda.is_available()


def test_a_gpu_without_bf16_takes_fp32_and_refuses_what_it_can_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a card torch says this; there is none here to ask."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GTX 1080")
    assert dtype_of("auto") == dtype_of("fp32") == torch.float32
    with pytest.raises(UserError, match=r"GTX 1080 does not compute in bf16; set precision to fp32 or auto\."):
        dtype_of("bf16")


@pytest.mark.long
def test_a_quantised_pair_is_served_in_either_precision_with_adapters_beside_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    quantise_pair("embedded", "small", home)
    release = home.pair("small")
    single, double = drawn(release, "fp32"), drawn(release, "bf16")
    assert not np.array_equal(single, double)
    assert 10 * np.log10(255**2 / np.square(single - double).mean()) > 25
    half = load_unchecked(release_of(release), "texture").generator("texture")
    name, layer = next((n, m) for n, m in half.named_modules() if n.endswith("attn1.to_q"))
    low = LowRank(torch.ones(2, layer.in_features), torch.ones(layer.out_features, 2), 2.0)
    added = RowAdapters.of(half).add({name: low}).layers[name]
    assert added.down.dtype == torch.float32 and type(added.down) is torch.Tensor
