"""Registries: names in order, nothing replaced in silence, plugins from modules and files."""

import sys
from dataclasses import dataclass

import pytest

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry, load_plugin


@dataclass(frozen=True)
class Entry:
    size: int


def test_entries_are_found_by_name_in_the_order_of_their_registration():
    registry: Registry[Entry] = Registry("thing")
    registry.register("b")(Entry(1))
    registry.register("a")(Entry(2))
    assert list(registry) == ["b", "a"] and registry.find("a") == Entry(2)
    with pytest.raises(UserError, match="task: unknown thing 'ab'; did you mean 'b'.*known: b, a"):
        registry.find("ab", "task")


def test_a_taken_name_is_never_replaced():
    registry: Registry[object] = Registry("thing")
    entry = registry.register("a")(Entry(1))
    registry.register("a")(entry)
    for other in (Entry(2), Entry(1), len):
        with pytest.raises(ValueError, match="thing 'a' is registered already"):
            registry.register("a")(other)


def test_a_plugin_is_a_module_or_a_file_and_is_loaded_once(tmp_path, monkeypatch):
    plugin = tmp_path / "counting_plugin.py"
    plugin.write_text("import sys\nsys.plugin_count = getattr(sys, 'plugin_count', 0) + 1\n")
    monkeypatch.setattr(sys, "plugin_count", 0, raising=False)
    load_plugin(str(plugin))
    load_plugin(str(plugin))
    assert sys.plugin_count == 1  # type: ignore[attr-defined]
    load_plugin("json")
    with pytest.raises(UserError, match="--plugin no_such: cannot be imported"):
        load_plugin("no_such")
    with pytest.raises(UserError, match="no file"):
        load_plugin(str(tmp_path / "absent.py"))


def test_a_plugin_that_failed_is_tried_again(tmp_path, monkeypatch):
    plugin = tmp_path / "mended_plugin.py"
    plugin.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(UserError, match="ZeroDivisionError"):
            load_plugin(str(plugin))
    plugin.write_text("import sys\nsys.plugin_count = 'once'\n")
    monkeypatch.setattr(sys, "plugin_count", 0, raising=False)
    load_plugin(str(plugin))
    assert sys.plugin_count == "once"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise SystemExit(3)", "it ends the process with 3; put that below `if __name__"),
        ("import sys; sys.exit()", "it ends the process"),
        ("import sys; sys.exit('bye')", "it ends the process with bye"),
        (
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            "Odd: no text",
        ),
        ("raise RecursionError", "RecursionError"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import asyncio; raise asyncio.CancelledError('x')", "CancelledError: x"),
        (
            "class Odd(Exception):\n    def __str__(self): raise SystemExit\nraise Odd",
            "Odd: no text",
        ),
    ],
)
def test_a_plugin_that_ends_the_process_is_named(tmp_path, source, expected):
    path = tmp_path / "ending_plugin.py"
    path.write_text(source)
    with pytest.raises(UserError) as error:
        load_plugin(str(path))
    assert expected in str(error.value) and str(path) in str(error.value)
