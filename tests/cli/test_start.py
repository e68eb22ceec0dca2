"""What a command imports before it answers, and what it leaves to those who need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig

PROGRAM = """
import sys
from adapt_jax.cli.main import main
assert main(sys.argv[1:]) == 0
print(*sorted({"torch", "orbax", "grain", "datasets"} & set(sys.modules)))
import torch
print(torch.zeros(2).tolist())
"""


@pytest.fixture
def adaptation(tiny, tmp_path: Path) -> Path:
    prompt = Prompt(generation_config=GenerationConfig(max_new_tokens=4))
    return Adaptation("zero_shot", prompt, tiny).save(tmp_path / "saved")


@pytest.mark.parametrize("has_plugin", [False, True])
def test_asking_imports_torch_only_for_plugins(has_plugin: bool, adaptation: Path, tmp_path: Path):
    """A plugin may compute with PyTorch models of transformers; so may what follows in Python."""
    pytest.importorskip("torch")
    plugin = tmp_path / "mine.py"
    plugin.write_text("import transformers\nassert transformers.utils.is_torch_available()\n")
    more = ["--plugin", str(plugin)] if has_plugin else []
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "ask", str(adaptation), "How many?", *more],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch was not found" not in done.stderr
    answer, imported, numbers = done.stdout.splitlines()
    assert ("torch" in imported.split()) == has_plugin and numbers == "[0.0, 0.0]"
    assert not {"orbax", "grain", "datasets"} & set(imported.split())
