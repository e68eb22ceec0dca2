"""Registries: how methods, sources, parsers, scorers, metrics, votes, trackers are extended.

    from adapt_jax.tasks.answers import PARSERS

    @PARSERS.register("last_word")
    def last_word(text, choices):
        return text.split()[-1] if text.split() else None

A module with such lines is loaded by ``--plugin MODULE``, or by an installed distribution that
names it in its entry-point group ``adapt_jax``.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from adapt_jax.utils.errors import UserError, nearest

__all__ = ["Registry", "has_entry_points", "load_entry_points", "load_plugin"]

GROUP = "adapt_jax"
T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name, in the order of their registration."""

    def __init__(self, kind: str):
        """``kind`` is what messages call one of them, such as "vote"."""
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters what it decorates under ``name``.

        Raises:
            ValueError: the name is taken by something else.
        """

        def enter(entry: T) -> T:
            taken = self._entries.get(name)
            if taken is not None and not _is_same(taken, entry):
                raise ValueError(f"{self.kind} {name!r} is registered already, by {taken!r}")
            self._entries[name] = entry
            return entry

        return enter

    def find(self, name: str, where: str = "") -> T:
        """The entry of this name.

        Raises:
            UserError: there is none; ``where`` begins the message, which names the nearest.
        """
        if name not in self._entries:
            raise UserError(f"{where}{': ' * bool(where)}{self.describe_unknown(name)}")
        return self._entries[name]

    def describe_unknown(self, name: str) -> str:
        """The message for a name that is not registered."""
        known = ", ".join(self._entries)
        return f"unknown {self.kind} {name!r}{nearest(name, self._entries)}; known: {known}"

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _is_same(one: object, other: object) -> bool:
    """Whether two entries are one, or the same function or class of a module loaded twice."""
    if one is other:
        return True
    origins = [
        (getattr(entry, "__module__", None), getattr(entry, "__qualname__", None))
        for entry in (one, other)
    ]
    return origins[0] == origins[1] and None not in origins[0]


def load_plugin(name: str) -> None:
    """Imports a module, or a Python file, that registers extensions.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        if name.endswith(".py"):
            _import_file(Path(name))
        else:
            importlib.import_module(name)
    except KeyboardInterrupt:  # Ctrl-C while a slow plugin is imported
        raise
    except BaseException as problem:  # the message names the plugin, whatever it raises
        reason = _describe(problem)
        raise UserError(f"--plugin {name}: cannot be imported ({reason})") from problem


def _describe(problem: BaseException) -> str:
    """The type and the text of an exception; foreign code may fail to give a text."""
    try:
        text = str(problem)
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = "no text"
    if isinstance(problem, SystemExit):
        return f"it ends the process with {text or 'no code'}; put that below `if __name__ ...`"
    return f"{type(problem).__name__}: {text}"


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    if path.stem in sys.modules:
        if getattr(sys.modules[path.stem], "__file__", None) == spec.origin:
            return
        raise ImportError(f"another module is named {path.stem}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]  # or the next try would find it and do nothing
        raise


@functools.cache
def _find_entry_points() -> EntryPoints:
    """What installed distributions registered; the metadata of all of them is read once."""
    return entry_points(group=GROUP)


def has_entry_points() -> bool:
    """Whether installed distributions registered something."""
    return bool(_find_entry_points())


@functools.cache
def load_entry_points() -> None:
    """Imports what installed distributions registered, once.

    Raises:
        UserError: one cannot be imported.
    """
    for point in _find_entry_points():
        try:
            point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            shown = f"plugin {point.name} ({point.value})"
            raise UserError(f"{shown}: {_describe(problem)}") from problem
