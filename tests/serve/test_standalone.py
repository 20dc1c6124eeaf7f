"""`pangu serve` says when it is ready, and blames the folder that it was given."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.serve.settings import ServeSettings
from pangu.serve.standalone import serve
from pangu.stack.ports import free_port


def test_it_says_where_to_draw_once_it_has_drawn_and_ends_at_a_signal(pair_folder: Path) -> None:
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    port = free_port()
    serve(pair_folder, port, ServeSettings(), say)
    assert said[0] == f"Loading {pair_folder} ..."
    assert said[1].startswith(f"Ready: http://127.0.0.1:{port}/studio")


def test_the_folder_that_was_given_is_named_whatever_is_wrong_with_it(pair_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for change in ("no weights", "torn weights", "no texts", "no json"):
        shutil.copytree(pair_folder, tmp_path / change)
    (tmp_path / "no weights/texture/diffusion_pytorch_model.safetensors").unlink()
    torn = tmp_path / "torn weights/structure/diffusion_pytorch_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    shutil.rmtree(tmp_path / "no texts/tokenizer")
    (tmp_path / "no json/vae/config.json").write_text("[]")
    for name in ("nowhere", "file", "empty", "no weights", "torn weights", "no texts", "no json"):
        said: list[str] = []
        with pytest.raises(UserError) as caught:
            serve(tmp_path / name, free_port(), ServeSettings(), said.append)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not [sentence for sentence in said if sentence.startswith("Ready")]


def test_a_pair_that_draws_nothing_is_not_served(pair_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(pair_folder, tmp_path / "pair")
    path = tmp_path / "pair/texture/diffusion_pytorch_model.safetensors"
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(path).items()}
    save_file(weights, path)
    with pytest.raises(UserError, match="not finite") as caught:
        serve(tmp_path / "pair", free_port(), ServeSettings(), lambda _: None)
    assert str(tmp_path / "pair") in str(caught.value)
