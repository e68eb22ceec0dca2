"""Registries: names in order, nothing replaced in silence, plugins from modules and files."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from adapt_jax.utils import registry
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry, has_entry_points, load_entry_points, load_plugin


@dataclass(frozen=True)
class Entry:
    size: int


def test_entries_are_found_by_name_in_the_order_of_their_registration():
    things: Registry[Entry] = Registry("thing")
    things.register("b")(Entry(1))
    things.register("a")(Entry(2))
    assert list(things) == ["b", "a"] and things.find("a") == Entry(2)
    with pytest.raises(UserError, match="task: unknown thing 'ab'; did you mean 'b'.*known: b, a"):
        things.find("ab", "task")


def test_a_taken_name_is_never_replaced():
    things: Registry[object] = Registry("thing")
    entry = things.register("a")(Entry(1))
    things.register("a")(entry)
    for other in (Entry(2), Entry(1), len):
        with pytest.raises(ValueError, match="thing 'a' is registered already"):
            things.register("a")(other)


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


def test_what_distributions_registered_is_looked_for_and_imported_once(tmp_path, monkeypatch):
    (tmp_path / "counted_entry.py").write_text("import builtins\n")
    metadata = tmp_path / "counted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[adapt_jax]\none = counted_entry\n")
    monkeypatch.syspath_prepend(tmp_path)
    for function in (registry._find_entry_points, load_entry_points):
        function.cache_clear()
    find, found = registry.entry_points, []
    monkeypatch.setattr(registry, "entry_points", lambda **g: found.append(g) or find(**g))
    load = EntryPoint.load
    loaded = []
    monkeypatch.setattr(EntryPoint, "load", lambda self: loaded.append(self.name) or load(self))
    for _ in range(2):
        assert has_entry_points()
        load_entry_points()
    assert found == [{"group": "adapt_jax"}] and loaded == ["one"]
    for function in (registry._find_entry_points, load_entry_points):
        function.cache_clear()


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
