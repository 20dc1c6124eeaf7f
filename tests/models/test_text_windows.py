"""Long captions in windows: each is read as by itself, and nothing but the end beyond the last window is lost."""

import torch

from pangu.config import TextEncoderSource
from pangu.models.text import embed_captions, load_text_tower, truncations
from pangu.models.text_windows import MOST_WINDOWS, embed_windows, reads_windows, windows_of

MOST = 9


def test_windows_are_captions_of_their_own_and_one_is_what_is_read_without_them() -> None:
    tower = load_text_tower(TextEncoderSource())
    assert reads_windows([tower])
    captions = ["a red fox under a tree in the snow at night beside a lake", "fox", "一只坐在山坡上的橙色小狐狸"]
    for caption in captions:
        one, pooled = embed_captions([tower], [caption], MOST)
        same, said = embed_windows([tower], [caption], MOST, 1)
        assert torch.equal(one, same) and torch.equal(pooled, said)
    count = windows_of([tower], captions, MOST)
    assert count == max(windows_of([tower], [caption], MOST) for caption in captions) > 1
    tokens, pooled = embed_windows([tower], captions, MOST, count)
    assert tokens.shape[:2] == (len(captions), count * MOST)
    assert torch.allclose(tokens[:, :MOST], embed_captions([tower], captions, MOST)[0], atol=1e-5)
    assert torch.allclose(pooled, embed_captions([tower], captions, MOST)[1], atol=1e-5)
    # The second window holds what the first one cut off, and those behind a short caption are empty ones.
    (cut,) = truncations([tower], captions[0], MOST)
    second = embed_captions([tower], [cut.text], MOST)[0]
    assert torch.allclose(tokens[:1, MOST : 2 * MOST], second, atol=1e-5)
    assert torch.allclose(tokens[1:2, MOST : 2 * MOST], embed_captions([tower], [""], MOST)[0], atol=1e-5)


def test_what_is_beyond_the_last_window_is_said() -> None:
    tower = load_text_tower(TextEncoderSource())
    caption = "a red cat under a tree " * 40
    assert windows_of([tower], [caption], MOST) == MOST_WINDOWS
    (cut,) = truncations([tower], caption, MOST, MOST_WINDOWS)
    read = caption.removesuffix(cut.text)
    assert truncations([tower], read, MOST, MOST_WINDOWS) == [] != truncations([tower], read, MOST)
    both = [embed_windows([tower], [text], MOST, MOST_WINDOWS)[0] for text in (caption, read + "something else")]
    assert torch.equal(*both)
