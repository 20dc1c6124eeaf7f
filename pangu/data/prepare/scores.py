"""What filters look at: cheap facts of an image and its captions, and scores by models where a card asks for them.

Every score is a column; nothing is dropped here.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from pangu.data.captions import HAN
from pangu.data.filters import Filters
from pangu.data.images import ImageHWC
from pangu.data.prepare.near_duplicates import colours_of
from pangu.errors import UserError
from pangu.extras import missing

LETTERS_TO_TELL = 20
"""A shorter English caption is a name or a label, on which language identifiers guess."""
LANGUAGES_OF_THE_WEB = (
    "en", "ru", "de", "ja", "es", "zh", "fr", "pt", "it", "pl", "nl", "cs", "vi", "id", "tr", "ar", "fa", "ko", "ro", "sv", "hu",
    "el", "uk", "da", "th", "fi", "sk", "no", "bg", "hr", "ca", "he", "lt", "sl", "et", "hi", "ms", "lv", "sr",
)  # fmt: skip
"""Those that nearly all pages of the web are written in; whoever knows more only takes from the probability of these."""
TEXT_SIDE = 736
"""Longer sides are scaled down to this before text is looked for, px."""
LEGIBLE = 0.6
"""Confidence of the reader from which on a box holds text."""
EXPOSED = "EXPOSED"


def facts_of(image_hwc: ImageHWC, captions_en: Sequence[str], captions_zh: Sequence[str]) -> dict[str, Any]:
    """The columns that need no model but the language identifier; of several captions, the score of the worst."""
    height, width, _ = image_hwc.shape
    return {
        "phash": str(imagehash.phash(Image.fromarray(image_hwc))),
        "colours": colours_of(image_hwc),
        "aspect": max(height, width) / min(height, width),
        "english": _least(map(english, captions_en)),
        "chinese": _least(map(han_share, captions_zh)),
    }


def _least(scores: Iterable[float | None]) -> float | None:
    return min((score for score in scores if score is not None), default=None)


def english(caption: str) -> float | None:
    """The probability that a caption is English, not in the likeliest other language, in [0, 1]; None if it is too short to tell.

    Not its share among all languages that the identifier knows: on the dozen words of a caption each of 140, dialects and creoles
    among them, takes a little, and what is left for plain English is often less than half.
    """
    if sum(character.isalpha() for character in caption) < LETTERS_TO_TELL:
        return None
    found = dict(_identifier().rank(caption))
    own = found.pop("en")
    return float(own / (own + max(found.values())))


def han_share(caption: str) -> float | None:
    """The share of Han characters among a caption's letters, in [0, 1]; None if it has no letters."""
    letters = [ord(character) for character in caption if character.isalpha()]
    if not letters:
        return None
    return sum(any(low <= letter <= high for low, high in HAN) for letter in letters) / len(letters)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(set(LANGUAGES_OF_THE_WEB) & set(identifier.labels)))
    return identifier


class Scorer:
    """The scores by models that a card asks for.

    Raises:
        UserError: a package or a model is missing.
    """

    def __init__(self, filters: Filters) -> None:
        asked = filters.measured()
        self._text = _text_detector() if "text_area" in asked else None
        self._nsfw = nsfw_detector("filters.max_nsfw") if "nsfw" in asked else None
        self._clip = _clip(filters.clip_model) if filters.clip_model else None
        self._aesthetic = _aesthetic(filters) if filters.aesthetic_model else None
        self._embedder = _embedder(filters.semantic_duplicates.model) if filters.semantic_duplicates else None

    def embedding(self, image_hwc: ImageHWC) -> bytes | None:
        """What semantic duplicates are found by: half-precision numbers of length 1; None if the card does not ask."""
        if self._embedder is None:
            return None
        [vector] = self._embedder([Image.fromarray(image_hwc)]).numpy()
        return np.asarray(vector, np.float16).tobytes()

    def scores(self, image_hwc: ImageHWC, caption_en: str, caption_zh: str) -> dict[str, float | None]:
        """The columns text_area, nsfw, clip_score and aesthetic; None where the card does not ask."""
        embedding = self._clip.look(image_hwc) if self._clip else None
        caption = self._clip.caption(caption_en, caption_zh) if self._clip else ""
        return {
            "text_area": text_area(self._text, image_hwc) if self._text else None,
            "nsfw": nsfw(self._nsfw, image_hwc) if self._nsfw else None,
            "clip_score": self._clip.agreement(embedding, caption) if self._clip and caption else None,
            "aesthetic": self._aesthetic(embedding) if self._aesthetic else None,
        }


def text_area(detector: Any, image_hwc: ImageHWC) -> float:
    """The share of an image under boxes of text, in [0, 1]."""
    scale = min(1.0, TEXT_SIDE / max(image_hwc.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image_hwc.shape[:2])
    small = np.asarray(Image.fromarray(image_hwc).resize((width, height), Image.Resampling.BILINEAR))
    found = detector(small[:, :, ::-1])
    if found.boxes is None or found.txts is None:
        return 0.0
    # Detection alone takes round shapes for letters; what cannot be read is no text.
    legible = [
        box
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
        if score >= LEGIBLE and len(text.strip()) > 1
    ]
    return min(1.0, sum(map(_area, legible)) / (height * width))


def _area(corners_k2: Sequence[Sequence[float]]) -> float:
    """The area of a polygon (shoelace formula)."""
    x, y = np.asarray(corners_k2, float).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def nsfw(detector: Any, image_hwc: ImageHWC, parts: Collection[str] | None = None) -> float:
    """The highest score of a body part of these classes of nudenet, in [0, 1]; None means every exposed one."""
    found = detector.detect(np.ascontiguousarray(image_hwc[:, :, ::-1]))
    counted = [part for part in found if (EXPOSED in part["class"] if parts is None else part["class"] in parts)]
    return max((float(part["score"]) for part in counted), default=0.0)


def _text_detector() -> Any:
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise _missing("filters.max_text_area", "rapidocr") from error
    quiet = {"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1}
    engine = RapidOCR(params=quiet)
    return lambda image: engine(image, use_det=True, use_cls=False, use_rec=True)


def nsfw_detector(wanted_by: str) -> Any:
    """nudenet's detector, which `nsfw` takes; the model is part of its package.

    Raises:
        UserError: the package is missing; the sentence says that the setting `wanted_by` needs it.
    """
    try:
        from nudenet import NudeDetector
    except ImportError as error:
        raise _missing(wanted_by, "nudenet") from error
    return NudeDetector()


def _missing(setting: str, package: str) -> UserError:
    return missing("filters", setting, f"the package {package}")


def _clip(source: str) -> Any:
    from pangu.data.prepare.clip_scores import ClipScores

    return ClipScores(source)


def _embedder(source: str) -> Any:
    from pangu.models.image_embedding import ImageEmbedder

    try:
        return ImageEmbedder(source)
    except UserError as error:
        raise UserError(f"filters.semantic_duplicates cannot be used: {error}") from error


def _aesthetic(filters: Filters) -> Any:
    from pangu.data.prepare.clip_scores import LinearPredictor

    if filters.clip_model is None:
        raise UserError("filters.aesthetic_model reads the embedding of a CLIP model; name it in filters.clip_model.")
    return LinearPredictor(Path(str(filters.aesthetic_model)))
