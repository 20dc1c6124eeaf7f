"""Inception and the two CLIP judges, on small random networks written to disk in the published formats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizerFast,
)

from pangu.errors import UserError
from pangu.evaluate.clip_score import ClipScorer
from pangu.evaluate.distribution import fid
from pangu.evaluate.eval_set import gather
from pangu.evaluate.evaluation import plan
from pangu.evaluate.generate import draw_whole, ready
from pangu.evaluate.inception import Inception
from pangu.evaluate.metrics import load_judges
from pangu.evaluate.prompt_scores import score
from pangu.pipelines.assemble import untrained_pair
from tests import subtests

VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class Published(torch.nn.Module):
    """The interface of inception-2015-12-05.pt: uint8 images; probabilities, or 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 5)
        self.body = torch.nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        features = self.body(img.float() / 127.5 - 1).relu().mean((2, 3))
        if return_features:
            return features
        bias = None if no_output_bias else self.head.bias
        return torch.nn.functional.linear(features, self.head.weight, bias).softmax(1)


def images(count: int, seed: int = 0) -> list[Image.Image]:
    arrays = np.random.default_rng(seed).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in arrays]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`inception.pt`, `clip/` and `cn-clip/`."""
    root = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    torch.jit.script(Published()).save(root / "inception.pt")
    letters = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for character in "abcdefghijklmnopqrstuvwxyz":
        letters[character] = len(letters)
        letters[f"{character}</w>"] = len(letters)
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = {"image_size": 32, "patch_size": 16}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(letters)}
    clip = CLIPConfig(
        text_config={**text, **ids, "max_position_embeddings": 16}, vision_config={**VISION, **sizes}, projection_dim=12
    )
    CLIPModel(clip).save_pretrained(root / "clip")
    CLIPTokenizerFast(vocab=letters, merges=[]).save_pretrained(root / "clip")
    small = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**small).save_pretrained(root / "clip")

    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只狐狸柠檬"]))
    chinese = ChineseCLIPConfig(
        text_config={**text, "vocab_size": 32}, vision_config={**VISION, **sizes}, projection_dim=12
    )
    ChineseCLIPModel(chinese).save_pretrained(root / "cn-clip")
    BertTokenizerFast(vocab=str(root / "vocab.txt")).save_pretrained(root / "cn-clip")
    ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(
        root / "cn-clip"
    )
    return root


def test_inception_gives_features_and_probabilities(folder: Path) -> None:
    network = Inception(folder / "inception.pt")
    features, probabilities = network.features(images(5), batch=2), network.probabilities(images(5))
    assert features.shape == (5, 8)
    assert torch.allclose(features, network.features(images(5)), atol=1e-6)
    assert torch.allclose(probabilities.sum(1), torch.ones(5))
    weight = torch.jit.load(folder / "inception.pt").head.weight.detach()
    assert torch.allclose(probabilities, (features.clone() @ weight.T).softmax(1), atol=1e-6)


def test_a_network_of_features_only_cannot_give_is(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Flatten(), torch.zeros(1, 3, 4, 4)).save(tmp_path / "flat.pt")
    network = Inception(tmp_path / "flat.pt")
    assert network.features(images(2)).shape == (2, 40 * 40 * 3)
    with pytest.raises(UserError, match="gives features only"):
        network.probabilities(images(2))


def test_what_is_no_network_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(UserError, match="is no TorchScript network"):
        Inception(tmp_path / "text.pt")
    with pytest.raises(UserError, match="There is no Inception network at"):
        Inception(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match="There is no model at"):
        ClipScorer(str(tmp_path / "nothing" / "there"), "clip")
    with pytest.raises(UserError, match="There is no CLIP model at"):
        ClipScorer(str(tmp_path), "clip")


@subtests.parametrize(("kind", "name", "captions"), [
    ("clip", "clip", ["a fox", "lemon", "a very long caption of many many letters"]),
    ("chinese_clip", "cn-clip", ["一只狐狸", "柠檬", "狐狸" * 400]),
])  # fmt: skip
def test_a_clip_score_is_the_cosine_of_the_model_s_own_embeddings(folder, kind, name, captions) -> None:
    judge = ClipScorer(str(folder / name), kind)
    cosines = judge.cosines(images(3), captions, batch=2)
    alone = torch.cat([judge.cosines([image], [text]) for image, text in zip(images(3), captions, strict=True)])
    assert torch.allclose(cosines, alone, atol=1e-5)
    assert judge.score(images(3), captions) == pytest.approx(100 * cosines.clamp_min(0).mean().item(), abs=1e-4)
    assert not torch.allclose(cosines, judge.cosines(images(3, seed=1), captions))

    clip = judge._clip
    model, processor = clip.model, clip.processor
    inputs = processor(images=images(1), return_tensors="pt")
    inputs |= clip.tokenizer(captions[:1], return_tensors="pt")
    assert cosines[0] == pytest.approx((model(**inputs).logits_per_image / model.logit_scale.exp()).item(), abs=1e-5)


def test_a_model_of_the_other_kind_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="is a model of type 'clip', but a CLIP score needs one of chinese_clip"):
        ClipScorer(str(folder / "clip"), "chinese_clip")


def test_every_judge_speaks_and_stands_in_the_protocol(bench, folder: Path) -> None:
    judges = load_judges(folder / "inception.pt", str(folder / "clip"), str(folder / "cn-clip"))
    protocol = plan(
        bench.recipe, bench.home, bench.dataset, bench.version, judges, split="train", prompts_per_language=6,
        num_inference_steps=2,
    )  # fmt: skip
    assert protocol.metrics == ("retrieval", "fid", "kid", "is", "clip", "cn_clip")
    assert set(protocol.weights) == {"inception", "clip", "cn_clip"}
    material = gather(bench.home, bench.dataset, bench.version, protocol, 96)
    drawn = draw_whole(ready(untrained_pair(bench.recipe), protocol), material, protocol)
    metrics = score(material, drawn, protocol, judges)
    assert {"fid_inception_zh", "kid_inception_en", "is_inception", "clip_score_en", "cn_clip_score_zh"} <= set(metrics)
    assert 1 <= metrics["is_inception"] <= 5
    assert metrics["is_inception"] == min(metrics["is_inception_zh"], metrics["is_inception_en"])
    truth = [material.images[key] for key in material.prompts["train"].keys]
    features = judges.inception.features
    assert metrics["fid_inception_en"] == pytest.approx(fid(features(truth), features(drawn["train", "en"])))
