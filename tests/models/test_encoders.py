"""Text towers and autoencoders: the embedded ones, and the hub's classes loaded from small folders in the same format."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from transformers import (
    BertTokenizerFast,
    ByT5Tokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
)

from pangu.config import AutoencoderSource, TextEncoderSource, TextJoin
from pangu.errors import UserError
from pangu.models.autoencoders import (
    autoencoder_hash,
    decode_latents,
    encode_pixels,
    load_autoencoder,
    scaling,
    spatial_factor,
)
from pangu.models.text import TextTower, embed_captions, load_text_tower, truncations, warn_of_truncation
from tests import subtests

checks = subtests.Checks()


@pytest.fixture(scope="module")
def embedded():
    return load_text_tower(TextEncoderSource())


@pytest.fixture(scope="module")
def hub_folders(tmp_path_factory):
    """A Chinese CLIP and an SDXL-like folder with `text_encoder_2` and `tokenizer_2`, small but in the real format."""
    root = tmp_path_factory.mktemp("hub")
    chinese = root / "chinese-clip"
    config = ChineseCLIPConfig(
        text_config={"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                     "vocab_size": 64},
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                       "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    ChineseCLIPModel(config).save_pretrained(chinese)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只红色的狐狸柠檬"]
    (root / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)), encoding="utf-8")
    BertTokenizerFast(vocab=str(root / "vocab.txt")).save_pretrained(chinese)

    sdxl = root / "sdxl"
    clip = CLIPTextConfig(
        vocab_size=300, hidden_size=40, intermediate_size=64, projection_dim=20, num_hidden_layers=3,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModelWithProjection(clip).save_pretrained(sdxl / "text_encoder_2")
    letters = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for character in "abcdefghijklmnopqrstuvwxyz":
        letters[character] = len(letters)
        letters[f"{character}</w>"] = len(letters)
    CLIPTokenizerFast(vocab=letters, merges=[]).save_pretrained(sdxl / "tokenizer_2")
    return chinese, sdxl


def test_the_embedded_tower_reads_both_languages(embedded) -> None:
    tokens, pooled = embed_captions([embedded], ["red apple", "红苹果", "green book"], 32)
    assert tokens.shape == (3, 32, embedded.channels)
    english, chinese, other = torch.nn.functional.normalize(pooled, dim=-1)
    assert english @ chinese > english @ other


def test_any_text_at_all_can_be_embedded(embedded) -> None:
    for text in ("", " ", "a" * 5000, "مرحبا", "🦊🦊", "\x00\n", "日本語のテキスト"):
        tokens, pooled = embed_captions([embedded], [text], 32)
        assert tokens.isfinite().all()
        assert pooled.isfinite().all()


def test_an_embedding_does_not_depend_on_its_batch(embedded) -> None:
    alone = embed_captions([embedded], ["red apple"], 32)
    together = embed_captions([embedded], ["a very long caption about books", "red apple"], 32)
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], many[1], atol=1e-5, rtol=1e-4)


def test_hub_towers_are_concatenated_on_the_channel_axis(hub_folders) -> None:
    """Chinese CLIP and OpenCLIP side by side, as in the paper; pooled is the last tower's."""
    chinese, sdxl = hub_folders
    towers = [
        load_text_tower(TextEncoderSource(source=str(chinese))),
        load_text_tower(
            TextEncoderSource(
                source=str(sdxl), subfolder="text_encoder_2", tokenizer_subfolder="tokenizer_2", hidden_layer=-2
            )
        ),
    ]
    tokens, pooled = embed_captions(towers, ["一只狐狸", "a fox"], 12)
    assert tokens.shape == (2, 12, 24 + 40)
    assert pooled.shape == (2, 20)
    first, _ = embed_captions(towers[:1], ["一只狐狸", "a fox"], 12)
    assert torch.equal(tokens[..., :24], first)


def test_hashes_tell_towers_apart(hub_folders, embedded, tmp_path) -> None:
    chinese = load_text_tower(TextEncoderSource(source=str(hub_folders[0])))
    again = load_text_tower(TextEncoderSource(source=str(hub_folders[0])))
    other_layer = load_text_tower(TextEncoderSource(source=str(hub_folders[0]), hidden_layer=-2))
    assert chinese.hash == again.hash
    assert len({chinese.hash, other_layer.hash, embedded.hash}) == 3
    # Without a projection, as Stable Diffusion's: one that the file lacks would be drawn at random at every load.
    sdxl = hub_folders[1]
    CLIPTextModel(CLIPTextConfig.from_pretrained(sdxl / "text_encoder_2")).save_pretrained(tmp_path / "text_encoder")
    source = TextEncoderSource(source=str(tmp_path), subfolder="text_encoder", tokenizer_subfolder="tokenizer")
    shutil.copytree(sdxl / "tokenizer_2", tmp_path / "tokenizer")
    assert load_text_tower(source).hash == load_text_tower(source).hash


@checks
def a_missing_tower_gets_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match="There is no model at"):
        load_text_tower(TextEncoderSource(source=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="There is no text encoder at"):
        load_text_tower(TextEncoderSource(source=str(tmp_path)))


def test_the_embedded_autoencoder_keeps_a_drawing(embedded) -> None:
    autoencoder = load_autoencoder(AutoencoderSource())
    pixels = torch.ones(1, 3, 96, 96)
    pixels[:, 1:, 24:72, 24:72] = -1
    latents = encode_pixels(autoencoder, pixels)
    assert latents.shape == (1, autoencoder.config.latent_channels, 12, 12)
    assert spatial_factor(autoencoder) == 8
    error = (decode_latents(autoencoder, latents) - pixels).square().mean()
    assert 10 * torch.log10(4 / error) > 18


@subtests.parametrize("kind", ["kl", "tiny"])
def test_hub_autoencoders_load_from_folders(kind, tmp_path) -> None:
    if kind == "kl":
        made = AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=3,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, scaling_factor=0.5, shift_factor=0.25,
        )  # fmt: skip
    else:
        made = AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), latent_channels=3, upsampling_scaling_factor=2,
        )  # fmt: skip
    made.save_pretrained(tmp_path / "vae")
    loaded = load_autoencoder(AutoencoderSource(source=str(tmp_path), subfolder="vae"))
    assert type(loaded) is type(made)
    assert autoencoder_hash(loaded) == autoencoder_hash(made)
    assert scaling(loaded) == ((0.5, 0.25) if kind == "kl" else (1.0, 0.0))
    pixels = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    latents = encode_pixels(loaded, pixels)
    assert latents.shape == (2, 3, 16 // spatial_factor(loaded), 16 // spatial_factor(loaded))
    assert decode_latents(loaded, latents).shape == pixels.shape


@checks
def one_changed_weight_changes_the_hash(tmp_path) -> None:
    autoencoder = load_autoencoder(AutoencoderSource())
    autoencoder.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, path)
    changed = load_autoencoder(AutoencoderSource(source=str(tmp_path)))
    assert autoencoder_hash(changed) != autoencoder_hash(autoencoder)


@checks
def something_else_than_an_autoencoder_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UserError, match="is a UNet2DModel; supported autoencoders are"):
        load_autoencoder(AutoencoderSource(source=str(tmp_path)))


@subtests.parametrize(
    "caption", ["a red fox under a tree in the snow at night", "一只坐在山坡上的橙色小狐狸", "A FOX 🦊🦊🦊 ÀÉ"]
)
@subtests.parametrize("most", [2, 6, 9])
def test_what_is_said_to_be_cut_is_the_end_that_changes_nothing(embedded, caption, most):
    (cut,) = truncations([embedded], caption, most)
    read = caption.removesuffix(cut.text)
    assert caption == read + cut.text and cut.tokens > cut.max_tokens == most
    # Only a character that is read in part may still tell.
    assert truncations([embedded], read, most) == []
    both = [embed_captions([embedded], [text], most)[0] for text in (caption, caption + " and more")]
    assert torch.equal(*both)
    assert truncations([embedded], caption, cut.tokens) == []


@subtests.parametrize("dropped", [0, 3])
def test_a_template_is_read_around_a_caption_and_its_beginning_is_not_passed_on(embedded, dropped):
    caption, most = "a red fox under a tree in the snow at night", 9
    told = TextJoin(max_tokens=most, template="what is {} like?", dropped=dropped)
    tower = replace(embedded, join=told)
    whole = replace(embedded, join=TextJoin(max_tokens=most + dropped))
    by_hand = embed_captions([whole], [f"what is {caption} like?"], most)[0]
    assert torch.equal(embed_captions([tower], [caption], most)[0], by_hand[:, dropped:])
    (cut,) = truncations([tower], caption, most)
    read = caption.removesuffix(cut.text)
    assert truncations([tower], read, most) == [] and cut.text.strip()
    both = [embed_captions([tower], [text], most)[0] for text in (caption, read + " and more")]
    assert torch.equal(*both)
    shorter = read[:-1] if read[-1] != " " else read[:-2]
    assert not torch.equal(both[0], embed_captions([tower], [shorter], most)[0]), "no less is read than is said"


def test_each_tower_says_what_it_cuts_also_where_its_tokenizer_knows_no_places(embedded, caplog):
    bytes_alone = TextTower(ByT5Tokenizer(), embedded.encoder)
    fast, slow = truncations([embedded, bytes_alone], "a red fox under a tree in the snow", 8)
    assert (fast.tower, slow.tower) == (0, 1)
    assert slow.text == "fox under a tree in the snow"[1:] and slow.tokens == 35
    assert "a red fox under a tree in the snow".endswith(fast.text)
    for _ in range(2):
        warn_of_truncation([embedded], ["a quite long caption that is warned of once", "fox"], 8)
    said = [record.getMessage() for record in caplog.records if "truncated" in record.getMessage()]
    assert len(said) == 1 and "at most 8 tokens" in said[0]


def test_latents_that_an_autoencoder_normalises_by_channel_are_scaled_so_and_back() -> None:
    """As diffusers' SDXL pipelines do; such an autoencoder is another one to the contract."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, scaling_factor=0.5).eval()
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 2.0, 1.0]
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        raw, before = plain.encode(pixels).latent_dist.mode(), autoencoder_hash(plain)
        drawn = decode_latents(plain, encode_pixels(plain, pixels))
        plain.register_to_config(latents_mean=mean, latents_std=std)
        latents = encode_pixels(plain, pixels)
        by_channel = [torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std)]
        torch.testing.assert_close(latents, (raw - by_channel[0]) * 0.5 / by_channel[1])
        torch.testing.assert_close(decode_latents(plain, latents), drawn)
    assert autoencoder_hash(plain) != before


test_encoders = checks.test()
