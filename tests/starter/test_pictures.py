"""The held-out combinations: enough of them, never learnt from, and made of parts that occur elsewhere."""

import torch

from pangu.starter.autoencoder import build, draw_crops, reconstruction_loss
from pangu.starter.pictures import SKIN_TONES, learning_material, without_tones
from pangu.starter.text_encoder import build_tokenizer


def test_held_out_combinations_are_new_but_their_parts_are_not() -> None:
    learnt, held_out = learning_material()
    assert len(held_out) >= 150
    assert not {one.text for one in learnt} & {one.text for one in held_out}
    assert not {one.caption_en for one in learnt} & {one.caption_en for one in held_out}
    people = {without_tones(one.text) for one in learnt}
    tones = {c for one in learnt for c in one.text if ord(c) in SKIN_TONES}
    for one in held_out:
        assert without_tones(one.text) in people
        assert {c for c in one.text if ord(c) in SKIN_TONES} <= tones


def test_the_autoencoder_learns() -> None:
    torch.manual_seed(0)
    model, generator = build(), torch.Generator().manual_seed(0)
    images = torch.full((4, 48, 48, 3), 255, dtype=torch.uint8)
    images[:, 12:36, 12:36] = torch.randint(0, 256, (4, 1, 1, 3), generator=generator, dtype=torch.uint8)
    pixels = draw_crops(images, 4, generator)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = reconstruction_loss(model, pixels, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_tokenizer_gives_any_text_tokens_between_bos_and_eos() -> None:
    tokenizer = build_tokenizer(["red apple", "红苹果"] * 3)
    for text in ("red apple", "红苹果", "", "🦊", "ß"):
        ids = tokenizer(text).input_ids
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(tokenizer("红苹果").input_ids, skip_special_tokens=True).strip() == "红苹果"
