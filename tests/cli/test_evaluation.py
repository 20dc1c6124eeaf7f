"""`pangu evaluate`: a whole pair or two halves, templates from a file, and one sentence for what makes no sense."""

from pathlib import Path

import pytest

from pangu.cli.evaluation import evaluate, templates_from
from pangu.errors import UserError
from pangu.sentences import UNTRAINED_TEMPLATES
from tests import subtests


def test_templates_come_from_yaml_json_or_the_embedded_pair_s_judgement(tmp_path: Path) -> None:
    for name, text in (
        ("t.yaml", "en: ['draw {a}']\nzh: ['画{}']\n"),
        ("t.json", '{"en": ["draw {a}"], "zh": ["画{}"]}'),
    ):
        (tmp_path / name).write_text(text)
        assert templates_from(str(tmp_path / name)) == {"en": ("draw {a}",), "zh": ("画{}",)}
    assert templates_from("untrained") == UNTRAINED_TEMPLATES
    assert templates_from(None) == {}


@subtests.parametrize(
    ("text", "sentence"),
    [
        ("en: [", "is not readable"),
        ("\udcff", "is not readable"),
        ("- draw {}", "must hold lists of templates"),
        ("en: draw {}", "must hold lists of templates"),
        ("en: []", "must hold lists of templates"),
        ("de: ['ein {}']", "has templates in 'de'; captions are in en and zh"),
        ("en: ['a fox']", "'a fox' must hold exactly one of"),
        ("en: ['{} and {}']", "'{} and {}' must hold exactly one of"),
    ],
)
def test_other_files_get_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=sentence):
        templates_from(str(tmp_path / "t.yaml"))
    with pytest.raises(UserError, match="is not readable"):
        templates_from(str(tmp_path / "none.yaml"))


@pytest.mark.usefixtures("home")
def test_a_pair_is_whole_or_in_halves() -> None:
    with pytest.raises(UserError, match="Name --structure, --texture and --encode-id, or a whole --pair"):
        evaluate("openmoji_all")
    with pytest.raises(UserError, match="leave out --structure, --texture and --encode-id"):
        evaluate("openmoji_all", structure=Path("a"), pair="embedded")
    with pytest.raises(UserError, match="There is no pair folder at nothing; name one, or 'embedded'"):
        evaluate("openmoji_all", pair="nothing")
    with pytest.raises(UserError, match="There is no dataset 'openmoji_all'"):
        evaluate("openmoji_all", pair="embedded")
    for scale in (0.0, -1.0, 51.0, float("nan")):
        with pytest.raises(UserError, match="--style-scale must lie above 0"):
            evaluate("openmoji_all", pair="embedded", version=0, style_scale=scale)
