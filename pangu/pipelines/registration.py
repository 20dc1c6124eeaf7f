"""Makes the pipelines here known to diffusers, which looks up the class of a folder among its own names only.

Without it, `PanGuDrawPipeline.from_pretrained(folder)` and the other classes load their folders just as well.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PLACES = {
    "Cascade": "baselines",
    "ExpertsPipeline": "experts_pipeline",
    "PanGuDrawPipeline": "pangu_draw",
    "SingleStage": "baselines",
}
"""Class that a folder may name -> its file in this package."""
LOADER, AUTO = "diffusers.pipelines.pipeline_utils", "diffusers.pipelines.auto_pipeline"


def register() -> None:
    """Let `DiffusionPipeline.from_pretrained` and `AutoPipelineForText2Image` find the classes of this package; idempotent."""
    offer()
    _register_auto(import_module(AUTO))


def offer() -> None:
    """Let diffusers' own module answer for the classes of this package, which are imported when somebody asks for one."""
    diffusers = import_module("diffusers")
    kind: Any = type(diffusers)
    if getattr(kind, "has_pangu", False):
        return

    class WithPanGu(kind):  # type: ignore[misc]
        has_pangu = True

        def __getattr__(self, name: str) -> Any:
            if name in PLACES:
                return _ours(name)
            return super().__getattr__(name)

    diffusers.__class__ = WithPanGu


def register_when_imported() -> None:
    """The same as `register`, but each half of it only when diffusers imports what it is about; nothing is imported now.

    torch calls it at its own import, by the entry point `torch.backends` of this package: the one place where what diffusers
    stands on looks for installed packages. TORCH_DEVICE_BACKEND_AUTOLOAD=0 turns that off.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds two modules of diffusers where they are, and sees them imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == LOADER:
            offer()
        if fullname != AUTO:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_auto(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register_auto(auto_pipeline: ModuleType) -> None:
    for name in PLACES:
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING[f"pangu-{name.lower()}"] = _ours(name)


def _ours(name: str) -> Any:
    return getattr(import_module(f"pangu.pipelines.{PLACES[name]}"), name)
