"""Without any extra every module can be imported, and the command line explains and measures."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from helpers import SHORT, write_task

PROGRAM = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

EXTRAS = "libtpu math_verify mkdocs nbclient peft pyarrow rouge_score sacrebleu".split()
EXTRAS += "lm_eval tensorboard torch wandb".split()

class Installed(PathFinder):  # everything but the extras
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in EXTRAS
        return None if absent else super().find_spec(name, path, target)

sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
import adapt_jax
from adapt_jax.cli.main import COMMANDS, main
from adapt_jax.utils.errors import UserError

for module in pkgutil.walk_packages(adapt_jax.__path__, "adapt_jax."):
    if module.name == "adapt_jax.harness.model":  # it subclasses what the extra brings
        try:
            importlib.import_module(module.name)
        except UserError as absent:
            assert "adapt-jax[eval]" in str(absent)
            continue
        raise AssertionError
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for command in COMMANDS:
    assert main([command, "--help"]) == 0
code = main(sys.argv[1:])
assert not sys.modules.keys() & set(EXTRAS)
sys.exit(code)
"""


def test_everything_but_the_extras_works_without_them(tiny_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(tiny_folder),
        "task": write_task(tmp_path / "task", test=2),
        "methods": {"zero_shot": SHORT},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "compare", str(tmp_path / "run.yaml"), "--quiet"],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "comparison.json").is_file()
