"""Whoever asks little waits little: which modules and commands import no network library, server or client of one.

What reads and decodes rows, in many processes, imports torch alone of them."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pangu

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "diffusers", "transformers", "ray", "mlflow", "prefect", "matplotlib", "scipy", "fastapi")
MODULES = (
    "pangu", "pangu.cli", "pangu.recipes", "pangu.contract", "pangu.actors", "pangu.jobs", "pangu.data.card",
    "pangu.data.table.versions", "pangu.data.ingest.stage", "pangu.data.prepare.stage", "pangu.data.prepare.refilter",
    "pangu.data.encode.encoded", "pangu.train.launch", "pangu.train.on_ray", "pangu.train.samples_seen", "pangu.gate",
    "pangu.registry", "pangu.serve.deploy", "pangu.stack", "pangu.stack.reconciler", "pangu.stack.exec_fresh",
    "pangu.monitoring.exporter", "pangu.demo.run", "pangu.retrain.asked", "pangu.retrain.outcome",
    "pangu.console.console_app", "pangu.console.dataset_views", "pangu.console.training_views",
)  # fmt: skip
COMMANDS = (
    "--help", "train --help", "recipes", "recipes demo", "status", "cards check openmoji", "dataset log openmoji",
    "dataset show openmoji", "dataset refilter openmoji", "prepare openmoji --ingest-id none", "samples-seen none",
    "train openmoji --encode-id none --role structure", "gate openmoji --metrics none.json --encode-id none", "deploy",
    "retrain openmoji --watch", "rollback",
    "release --pair none --structure none --texture none --metrics none.json", "metrics", "deployments",
)  # fmt: skip
"""Those that fail do so in an empty home, after they have imported what they begin with."""
ROWS = ("pangu.data.rows.load", "pangu.data.encode.chunk_files", "pangu.data.encode.stage")
FLOWS = sorted(f"flows.{path.stem}" for path in (ROOT / "flows").glob("[a-z]*.py"))
EACH_IN_A_FORK = """
import importlib, json, os, sys
# What most of them import, once for all; "to begin with" says that it is light.
import PIL.Image, deltalake, httpx, pyarrow.dataset, pyarrow.parquet, typer.rich_utils
import pangu.data.card, pangu.stack, pangu.train.job
from pangu.cli import data, dataset, evaluation, gate, planning, serving, training

heavy, modules, commands, rows, flows = json.loads(sys.argv[1])
sys.stdout = sys.stderr = open(os.devnull, "w")

def ask(begin):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            begin()
        except SystemExit:
            pass
        except BaseException as error:
            os.write(write, json.dumps([repr(error)]).encode())
            os._exit(1)
        os.write(write, json.dumps([name for name in heavy if name in sys.modules]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        found = json.loads(told.read())
    os.waitpid(child, 0)
    return found

def run(command):
    sys.argv = ["pangu", *command.split()]
    from pangu.cli import main
    main()

found = {"to begin with": ask(lambda: None)}
found |= {module: ask(lambda: importlib.import_module(module)) for module in modules}
found |= {f"pangu {command}": ask(lambda: run(command)) for command in commands}
found["rows"] = ask(lambda: [importlib.import_module(name) for name in rows])
found["gateway"] = ask(lambda: importlib.import_module("pangu.serve.gateway"))
found["flows"] = ask(lambda: [importlib.import_module(name) for name in flows])
print(json.dumps(found), file=sys.__stdout__)
"""


def test_light_modules_and_commands_import_nothing_heavy_and_flows_prefect_alone(tmp_path: Path) -> None:
    known = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in known}
    environment |= {"PANGU_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    asked = json.dumps([HEAVY, MODULES, COMMANDS, ROWS, FLOWS])
    command = [sys.executable, "-c", EACH_IN_A_FORK, asked]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert found.pop("rows") == ["torch"]
    assert found.pop("flows") == ["prefect"]
    assert found.pop("gateway") == ["ray", "fastapi"]
    assert len(found) == 1 + len(MODULES) + len(COMMANDS)
    assert {what: heavy for what, heavy in found.items() if heavy} == {}


NOTEBOOK = """
import sys, time
before = set(sys.modules)
import pangu
came = {name for name in set(sys.modules) - before if name.split(".")[0] not in sys.stdlib_module_names}
print(time.process_time(), sorted(came))
import pangu.train.launch, inspect  # which makes an attribute of the package of its name
from pangu import train, evaluate, Card, Recipe
from pangu.recipes import tiny
assert inspect.signature(train) == inspect.signature(pangu.train.launch.train) and isinstance(tiny(), Recipe)
assert set(pangu.__all__) == {"PanGuDrawPipeline", "CoopPipeline", "Card", "Recipe", "train", "evaluate"}
import pickle
assert pickle.loads(pickle.dumps(train)) is train
"""


def test_the_package_offers_what_a_notebook_needs_and_imports_none_of_it_before() -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, modules = done.stdout.split(" ", 1)
    assert modules.strip() == "['pangu']" and float(seconds) < 0.3
    # What imports diffusers is asked for here, where it mostly is imported already: a process of its own would take seconds.
    assert list(inspect.signature(pangu.evaluate).parameters)[:2] == ["structure", "texture"]
    with pytest.raises(TypeError, match="structure"):
        pangu.evaluate()
    assert pangu.CoopPipeline.__name__ == "CoopPipeline" and pangu.PanGuDrawPipeline.__mro__[-2].__name__ != "object"
    assert (ROOT / "pangu/py.typed").is_file() and '"py.typed"' in (ROOT / "pyproject.toml").read_text()
