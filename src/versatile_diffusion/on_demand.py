"""Packages of other libraries that are run when something of them is first used, so that ours is imported quickly.

diffusers runs the modules of every transformer and every autoencoder that it knows where one of them is imported, and
with them half of scipy. A module of such a package can be imported by its full name without that; what the package
itself offers is there as soon as it is asked for. Whoever has imported them before is not affected.

A function that other modules take from such a package while they are imported, only to call it later, has a stand-in:
it runs the package when it is called.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = (
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "scipy.integrate",
    "scipy.optimize",
    "scipy.stats",
)
_lock = threading.RLock()


def defer(packages: Iterable[str] = PACKAGES) -> None:
    """From now on these packages, where they are not imported yet, are run when a name of theirs is first used."""
    finder = _Finder(packages)
    if finder.packages:
        sys.meta_path.insert(0, finder)


class _Package(ModuleType):
    """A package that has not been run."""

    def __init__(self, name: str):
        super().__init__(name)
        for taken in STAND_INS.get(name, ()):
            setattr(self, taken, partial(_run_and_call, self, taken))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__} has no attribute {name}")
        self._run()
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        self._run()
        return dir(self)

    def _run(self) -> None:
        with _lock:
            if type(self) is _Package:  # no other thread has run it meanwhile
                self.__class__ = ModuleType  # type: ignore[assignment]
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)


def _run_and_call(package: _Package, name: str, *given: Any, **options: Any) -> Any:
    """Runs the package and calls its function."""
    _Package._run(package)
    return vars(package)[name](*given, **options)


STAND_INS: Mapping[str, Sequence[str]] = {"scipy.optimize": ("linear_sum_assignment",)}
"""By package, functions that other modules take from it while they are imported, only to call them later."""


class _Unrun(Loader):
    """Makes the module of a package and leaves running it to the loader proper."""

    def __init__(self, proper: Loader):
        self.proper = proper

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.proper


class _Finder(MetaPathFinder):
    def __init__(self, packages: Iterable[str]):
        self.packages = {name for name in packages if name not in sys.modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.packages:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Unrun(spec.loader)
        return spec
