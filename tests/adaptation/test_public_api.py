"""``import adapt_jax``: quick, and every public name is where it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import adapt_jax


def test_every_public_name_can_be_imported():
    for name in adapt_jax.__all__:
        assert getattr(adapt_jax, name) is not None, name
    assert set(dir(adapt_jax)) == set(adapt_jax.__all__)
    with pytest.raises(AttributeError, match="'adapt_jax' has no attribute 'Adaptions'"):
        _ = adapt_jax.Adaptions


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(adapt_jax.__file__).read_text(encoding="utf-8"))
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: str(node.module).removeprefix("adapt_jax.")
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == adapt_jax._MODULE_OF


def test_importing_the_package_imports_no_library():
    code = "import sys, adapt_jax; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"jax", "numpy", "transformers", "pydantic", "yaml", "rich"})
