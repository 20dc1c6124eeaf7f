"""Which tests a change runs."""

from tests import subtests
from tests.touched import imported, touched

checks = subtests.Checks()


@checks
def a_module_runs_the_tests_that_import_it_and_leaves_others_alone() -> None:
    found = touched(["pangu/diffusion/interval.py"])
    assert "tests/diffusion/test_interval.py" in found
    assert "tests/infra/test_constraints.py" not in found
    assert any("pangu/diffusion/interval.py" in imported(test) for test in found)


@checks
def a_test_runs_itself_and_a_conftest_its_folder() -> None:
    assert touched(["tests/diffusion/test_noise.py"]) == ["tests/diffusion/test_noise.py"]
    found = touched(["tests/evaluate/conftest.py"])
    assert {"tests/evaluate/test_matrix.py", "tests/evaluate/test_retrieval.py"} <= set(found)


@checks
def what_only_a_server_reads_runs_the_tests_of_that_server() -> None:
    assert "tests/browser" in touched(["pangu/serve/static/studio.js"])
    assert "tests/flows" in touched(["flows/stages.py"])


@checks
def nothing_runs_for_a_document_or_a_file_that_is_gone() -> None:
    assert touched(["README.md", "pangu/gone.py"]) == []


test_touched = checks.test()
