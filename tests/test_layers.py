"""Imports between the rooms of adapt_jax run downwards, and no modules import each other."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import adapt_jax

ROOT = Path(adapt_jax.__file__).parent
# Each room may import itself and the rooms before it.
ROOMS = (
    *("utils", "tasks", "decoders", "pretrained", "sampling", "prompting", "training"),
    *("adaptation", "evaluation", "methods", "inspection", "comparison", "harness", "cli"),
)


class Import(NamedTuple):
    line: int
    module: str  # what is imported, with its dots
    at_runtime: bool  # whether it is more than a type


def name_of(path: Path, root: Path) -> str:
    """The dotted name of the module in this file."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(path: Path, modules: set[str]) -> Iterator[Import]:
    """The imports of other modules of the package anywhere in a file, in functions too."""
    tree = ast.parse(path.read_text())
    type_checking = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            # ``from package import name`` imports a module of the package, or the package itself
            joined = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in joined]
        for name in dict.fromkeys(names):
            if name in modules:
                yield Import(node.lineno, name, node not in type_checking)


def check(root: Path, rooms: tuple[str, ...]) -> list[str]:
    """Every upward import below ``root`` and, if there are none, a circle of modules."""
    files = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    rank = {f"{root.name}.{room}": number for number, room in enumerate(rooms)}

    def rank_of(module: str) -> int | None:
        return rank.get(".".join(module.split(".")[:2]))

    problems, graph = [], {}
    for module, path in files.items():
        imports = list(find_imports(path, set(files)))
        here = rank_of(module)
        for line, imported, _ in imports:
            there = rank_of(imported)
            # the package itself is above all rooms
            is_upward = here is not None and (there is None or there > here)
            if is_upward:
                problems.append(f"{path.relative_to(root.parent)}:{line} imports {imported}")
        graph[module] = {one.module for one in imports if one.at_runtime} - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        problems.append("circle: " + " -> ".join(circle.args[1]))
    return problems


def test_imports_run_downwards_and_in_no_circle() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert check(ROOT, ROOMS) == []


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"low/a": "import pkg.high.b"}, "pkg/low/a.py:1 imports pkg.high.b"),
        ({"low/a": "from pkg.high import b"}, "pkg/low/a.py:1 imports pkg.high.b"),
        ({"low/a": "def f():\n    from pkg.high.b import x"}, "pkg/low/a.py:2 imports pkg.high.b"),
        (
            {"low/a": "if TYPE_CHECKING:\n    from pkg.high.b import x"},
            "pkg/low/a.py:2 imports pkg.high.b",
        ),
        ({"low/a": "import pkg"}, "pkg/low/a.py:1 imports pkg"),
        (
            {"high/b": "from pkg.high import c", "high/c": "def f():\n    import pkg.high.b"},
            "circle: pkg.high.b -> pkg.high.c -> pkg.high.b",
        ),
        ({"high/b": "import pkg.low.a", "high/c": "from pkg.high.b import x"}, None),
        (
            {
                "high/b": "from pkg.high.c import x",
                "high/c": "if TYPE_CHECKING:\n    import pkg.high.b",
            },
            None,
        ),
    ],
)
def test_the_check_finds_what_it_is_for(
    files: dict[str, str], problem: str | None, tmp_path: Path
) -> None:
    root = tmp_path / "pkg"
    for name in ("__init__", "low/__init__", "low/a", "high/__init__", "high/b", "high/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(files.get(name, ""))
    found = check(root, ("low", "high"))
    if problem is None or not problem.startswith("circle"):
        assert found == ([] if problem is None else [problem])
    else:  # a circle has no first module
        (line,) = found
        assert sorted(set(line.removeprefix("circle: ").split(" -> "))) == [
            "pkg.high.b",
            "pkg.high.c",
        ]
