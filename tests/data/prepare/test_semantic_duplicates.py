"""Pictures that a network cannot tell apart end under a reason of their own, however many there are and wherever they lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.data.card import Card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.images import decode_rgb, encode_png
from pangu.data.ingest.stage import ingest
from pangu.data.prepare import semantic_duplicates
from pangu.data.prepare.made_rows import embeddings_file, made_file, work_folder
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.semantic_duplicates import Vectors, near_embeddings
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.data.table.spilling import engine
from pangu.data.table.versions import log
from pangu.errors import UserError
from pangu.models.image_embedding import ImageEmbedder
from pangu.storage import Home
from tests import subtests

pytest.importorskip("faiss", reason="the extra `filters` brings it")
WIDTH = 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def dropped(folder: Path, vectors: np.ndarray, min_similarity: float) -> list[int]:
    """Ranks, as they come from vectors in parts of any order."""
    order = np.random.default_rng(1).permutation(len(vectors))
    parts = ((part, vectors[part]) for part in np.array_split(order, 7) if len(part))
    with engine(folder) as connection:
        written = Vectors.write(folder, len(vectors), parts)
        found = list(near_embeddings(connection, written, min_similarity))
    return sorted(rank for table in found for rank in table["rank"].to_pylist())


def one_by_one(vectors: np.ndarray, min_similarity: float) -> list[int]:
    """Each is compared with every earlier one that is kept."""
    whole, kept, found = vectors.astype(np.float32), list[int](), list[int]()
    for rank, vector in enumerate(whole):
        near = bool(kept) and (whole[kept] @ vector).max() >= min_similarity
        (found if near else kept).append(rank)
    return found


def with_copies(count: int, copies: int, seed: int = 0) -> np.ndarray:
    """Vectors far from each other, and copies of some, hardly changed, in any order."""
    random = np.random.default_rng(seed)
    first = unit(random.normal(size=(count, WIDTH)))
    again = unit(first[random.integers(0, count, copies)] + 0.01 * random.normal(size=(copies, WIDTH)))
    return random.permutation(np.concatenate([first, again]))


@subtests.parametrize("list_rows", [4096, 50])
def test_what_is_dropped_is_what_comparing_all_would_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_rows: int
) -> None:
    monkeypatch.setattr(semantic_duplicates, "LIST_ROWS", list_rows)
    monkeypatch.setattr(semantic_duplicates, "BLOCK", 64)
    monkeypatch.setattr(semantic_duplicates, "CHUNK", 100)
    monkeypatch.setattr(semantic_duplicates, "AT_ONCE", 77)
    vectors = with_copies(700, 300)
    expected = one_by_one(vectors, 0.98)
    assert len(expected) >= 300 and dropped(tmp_path, vectors, 0.98) == expected


def test_one_picture_many_times_fills_one_list_and_costs_as_many_comparisons(tmp_path: Path) -> None:
    """A list that one key fills: 30,000 copies. Comparing each with each would take minutes."""
    vectors = np.repeat(with_copies(10, 0), 3_000, axis=0)
    assert len(dropped(tmp_path, vectors, 0.99)) == len(vectors) - 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vision transformer as transformers writes it, of random weights."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": WIDTH}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_copies_of_a_picture_end_under_their_own_reason_and_thresholds_look_at_no_picture(
    model: str, tmp_path: Path
) -> None:
    source, home = tmp_path / "source", Home(tmp_path / "home")
    source.mkdir()
    for index, one in enumerate(selection(6)):
        data = render_png(one, 96)
        (source / f"{index}.png").write_bytes(data)
        darker = np.asarray(decode_rgb(data, 10**6).image_hwc * 0.995, np.uint8)
        (source / f"{index}-again.png").write_bytes(encode_png(darker))
        for name in (f"{index}", f"{index}-again"):
            (source / f"{name}.json").write_text(json.dumps({"en": one.caption_en}))

    def card(**rule: object) -> Card:
        filters = {"semantic_duplicates": rule} if rule else {}
        return Card.model_validate(
            {
                "name": "alike", "source": str(source), "columns": {"caption_en": "en"}, "licence": {"name": "CC0"},
                "texture_min_side": 60, "upscale": {"target_side": 96, "min_timestep": 300},
                "limits": {"rows_per_shard": 5}, "filters": filters,
            }
        )  # fmt: skip

    ingested = ingest(card(), home).ingest_id
    assert prepare(card(), ingested, home).rows == 12
    pictures = sorted(source.glob("*.png"))
    seen = ImageEmbedder(model)([Image.open(path) for path in pictures]).numpy()
    cosines = np.sort((seen @ seen.T)[np.triu_indices(len(seen), 1)])[::-1]
    assert (cosines[:6] > cosines[6]).all(), "the copies are the six nearest pairs"
    strict = card(model=model, min_similarity=float((cosines[5] + cosines[6]) / 2))
    outcome = prepare(strict, ingested, home)
    assert (outcome.rows, outcome.dropped) == (6, {"semantic_duplicate": 6})
    assert len(read_rows(home, "alike", outcome.version)["key"].unique()) == 6

    made_by = next(entry for entry in log(home, "alike") if entry.version == outcome.version)
    work = work_folder(home, "alike", made_by.facts["work"])
    embedded = [embeddings_file(made_file(work, number)) for number in range(3)]
    before = [file.stat().st_mtime_ns for file in embedded]
    loose = refilter(card(model=model, min_similarity=1.0), home, outcome.version)
    assert loose.rows + loose.dropped.get("semantic_duplicate", 0) == 12 and loose.rows > 6
    assert [file.stat().st_mtime_ns for file in embedded] == before

    embedded[0].unlink()  # a lost file is made again, by the same prepare
    with pytest.raises(UserError, match="is not all here"):
        refilter(card(model=model, min_similarity=0.5), home, outcome.version)
    assert prepare(card(model=model, min_similarity=0.5), ingested, home).rows < 12 and embedded[0].is_file()
    with pytest.raises(UserError, match=r"semantic_duplicates cannot be used: There is no model .*nowhere"):
        prepare(card(model=str(tmp_path / "nowhere")), ingested, home)
