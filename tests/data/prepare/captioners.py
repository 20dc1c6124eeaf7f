"""Small random captioning models written to disk in the published formats: BLIP, ViT with GPT-2, and LLaVA, which chats."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

SIDE = 32
WORDS = [
    "[PAD]",
    "[BOS]",
    "[EOS]",
    "[UNK]",
    "<image>",
    "a",
    "red",
    "fox",
    "sun",
    "blue",
    "green",
    "tree",
    "sees",
    "?",
    "cat",
]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def tokenizer(marks_ends: bool = False) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    if marks_ends:
        words.post_processor = TemplateProcessing("[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)])
    special = {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, additional_special_tokens=["<image>"])


def write(model: PreTrainedModel, head: torch.nn.Module, folder: Path) -> None:
    """With weights so large that what it says depends on what it sees, and next to no wish to end or to say what is no word."""
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.5)
    head.weight.data[: WORDS.index("a")] = 0
    model.save_pretrained(folder)


def write_blip(folder: Path) -> str:
    text = {**VISION, **IDS, "vocab_size": len(WORDS), "sep_token_id": 2, "encoder_hidden_size": 16}
    vision = {**VISION, "image_size": SIDE, "patch_size": 8}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    write(model, model.text_decoder.cls.predictions.decoder, folder)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer(marks_ends=True))
    processor.save_pretrained(folder)
    return str(folder)


def write_vit_gpt2(folder: Path) -> str:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**VISION, image_size=SIDE, patch_size=8),
        GPT2Config(
            vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, **IDS, tie_word_embeddings=False
        ),
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    model = VisionEncoderDecoderModel(config=config)
    write(model, model.decoder.lm_head, folder)
    tokenizer().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


def write_llava(folder: Path) -> str:
    text = LlamaConfig(**VISION, **IDS, num_key_value_heads=2, vocab_size=len(WORDS), tie_word_embeddings=False)
    vision = CLIPVisionConfig(**{**VISION, "num_hidden_layers": 2}, image_size=SIDE, patch_size=16)
    model = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=WORDS.index("<image>"))
    )
    write(model, model.lm_head, folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(**sizes), tokenizer(), patch_size=16, vision_feature_select_strategy="default",
        chat_template=CHAT, num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return str(folder)
