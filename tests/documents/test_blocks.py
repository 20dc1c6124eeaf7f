"""What the documents show could be typed like that: every block is parsed by the program or the model that it is for."""

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pangu.cli import whole
from pangu.config import Recipe
from tests import subtests
from tests.documents.blocks import DOCUMENTS, ROOT, Block, blocks_of, every
from tests.documents.commands import check, lines
from tests.documents.installed import install
from tests.documents.values import check_json, check_toml, check_yaml

checks = subtests.Checks()

LANGUAGES = {"sh", "python", "yaml", "json", "toml", "mermaid", "text"}
NOT_RUN = {"python": 1, "sh": 0}
"""Blocks that a comment excuses from being run, by language."""


@checks
def every_block_has_a_language_that_is_checked_and_few_are_excused() -> None:
    blocks = [block for document in DOCUMENTS for block in blocks_of(document)]
    fences = sum(len(re.findall(r"^ *```", (ROOT / document).read_text(), re.MULTILINE)) for document in DOCUMENTS)
    assert 2 * len(blocks) == fences, "a fence that nobody found"
    assert {block.language for block in blocks} <= LANGUAGES
    excused = {
        language: [f"{block.place}: {block.reason}" for block in blocks if block.reason and block.language == language]
        for language in NOT_RUN
    }
    assert {language: len(found) for language, found in excused.items()} == NOT_RUN, excused


@subtests.parametrize("block", every("sh"), ids=lambda block: block.place)
def test_every_command_of_the_documents_exists_as_it_is_written(block: Block) -> None:
    found = list(lines(block.text))
    assert found
    for line in found:
        check(line)


@checks
def the_commands_that_cost_nothing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pangu recipes NAME`, whose output the documents go on with."""
    monkeypatch.setenv("PANGU_HOME", str(tmp_path))
    found = [line for block in every("sh") for line in lines(block.text) if line.startswith("pangu recipes ")]
    assert len(found) >= 2
    for line in found:
        done = CliRunner().invoke(whole(), line.split()[1:])
        assert done.exit_code == 0 and Recipe.model_validate_json(done.stdout).name == line.split()[2]


@subtests.parametrize("language", ["yaml", "json", "toml"])
def test_every_value_of_the_documents_is_one_that_its_model_takes(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"yaml": check_yaml, "json": check_json, "toml": check_toml}[language]
    for number, document in enumerate({block.document: None for block in every(language)}):
        folder = tmp_path / str(number)
        folder.mkdir()
        install(document, folder, monkeypatch)
        for block in blocks_of(document):
            if block.language == language:
                try:
                    read(block.text)
                except Exception as error:
                    raise AssertionError(f"{block.place}: {error}") from error


@checks
def python_of_the_documents_parses_and_imports_what_is_there() -> None:
    import importlib

    for block in every("python"):
        for node in ast.walk(ast.parse(block.text, block.place)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pangu":
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{block.place}: {node.module} has no {missing}"


test_blocks = checks.test()
