"""A package that bears the name of the function in it, and is called like it: `pangu.train(...)` beside `pangu.train.loop`."""

import sys
from functools import cached_property
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import Any

from pangu.extras import check_name, extras_named


def make_callable(package: str, module: str) -> None:
    """Let `package` be called as the function of its name in `package.module`, which is imported at the first call."""

    class Callable(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return self._function(*arguments, **named)

        @cached_property
        def _function(self) -> Any:
            name = package.rpartition(".")[2]
            check_name(name)
            with extras_named(package):
                return getattr(import_module(f"{package}.{module}"), name)

        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return import_module, (package,)

        @property
        def __signature__(self) -> Signature:
            return signature(self._function)

    sys.modules[package].__class__ = Callable
