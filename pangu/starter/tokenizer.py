"""The tokenizer of the embedded text encoder: byte-level BPE that is learnt from all that drawings may be called."""

from collections.abc import Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pangu.data.captions import LANGUAGES
from pangu.data.example.openmoji import Emoji
from pangu.data.wording import plural, worded
from pangu.sentences import TEMPLATES
from pangu.starter.wordings import caption, keywords

VOCABULARY = 8192
MAX_TOKENS = 32


def build_tokenizer(drawings: Sequence[Emoji]) -> PreTrainedTokenizerFast:
    """Any UTF-8 text at all has tokens, known words have one, and so has each Han character, so that a word has the same tokens
    wherever it stands. Case and variation selectors make no difference."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("\ufe0f", "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]  # an eos id of 2 would make transformers pool by the largest id
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
    )
    tokenizer.train_from_iterator(_texts(drawings), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", model_max_length=MAX_TOKENS
    )


def _texts(drawings: Sequence[Emoji]) -> Iterator[str]:
    """Captions, keywords, plurals, and each template with one caption."""
    for one in drawings:
        for language in LANGUAGES:
            yield caption(one, language)
            yield from keywords(one, language)
        yield plural(one.caption_en)
    for language, templates in TEMPLATES.items():
        for place, template in enumerate(templates):
            yield worded(template, caption(drawings[place % len(drawings)], language))
