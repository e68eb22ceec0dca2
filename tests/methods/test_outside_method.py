"""A method from a file outside the package works in every command, as the built-in ones do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.cli.main import main
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import LADDER, METHODS
from adapt_jax.utils.registry import load_plugin

BITFIT = Path(__file__).parents[2] / "examples" / "bitfit.py"
QUESTION = "What is 3 + 1?"


@pytest.fixture
def plugin(monkeypatch) -> str:
    """The path of examples/bitfit.py; what it registers is gone after the test."""
    list(METHODS)  # the built-in methods register themselves first
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.setattr(METHODS, "_after", dict(METHODS._after))
    monkeypatch.delitem(sys.modules, "bitfit", raising=False)
    yield str(BITFIT)
    sys.modules.pop("bitfit", None)


@pytest.fixture(scope="module")
def decoder(make_tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with biases in its attention."""
    return make_tiny_llama(tmp_path_factory.mktemp("biased"), attention_bias=True)


@pytest.fixture
def config(decoder: Path, tmp_path: Path) -> dict[str, Any]:
    """What a comparison and a tuning have in common, and the method's options."""
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}
    task = {"name": "sums", "source": source, "splits": {"train": 8, "test": 2}}
    return {"decoder": str(decoder), "task": task}


OPTIONS = {
    "max_new_tokens": 4,
    "training": {"steps": 2, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 0},
}


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_a_method_in_a_file_of_its_own_works_in_every_command(
    plugin: str, config: dict[str, Any], decoder: Path, tmp_path: Path, capsys
):
    assert len(BITFIT.read_text().splitlines()) < 60

    # compare
    methods = {"zero_shot": {"max_new_tokens": 4}, "bitfit": OPTIONS}
    (tmp_path / "ladder.yaml").write_text(yaml.safe_dump(config | {"methods": methods}))
    output = tmp_path / "ladder"
    run("compare", tmp_path / "ladder.yaml", "--output-dir", output, "--plugin", plugin)
    rungs = json.loads((output / "comparison.json").read_text())["rungs"]
    assert [rung["method"] for rung in rungs] == ["zero_shot", "bitfit"]
    trained = rungs[1]["trainable_parameters"]
    # in each of two layers: biases of query, key, value and output, two norms; and the last norm
    assert trained == 2 * (32 + 16 + 16 + 32 + 2 * 32) + 32
    assert rungs[1]["training"]["norms"] is True

    # tune
    method = {"name": "bitfit", "norms": False} | OPTIONS
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(config | {"method": method}))
    output = tmp_path / "tuned"
    run("tune", tmp_path / "tune.yaml", "--output-dir", output, "--plugin", plugin)

    # save and load: only the biases have changed
    adaptation = Adaptation.load(output / "adaptation")
    assert adaptation.method == "bitfit" and adaptation.has_full_weights
    before = load_file(decoder / "model.safetensors")
    after = load_file(output / "adaptation" / "weights" / "model.safetensors")
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {name for name in before if name.endswith("bias")}

    # inspect
    capsys.readouterr()
    sizes = ("--batch", 4, "--length", 32)
    run("inspect", decoder, "--method", "bitfit", "--json", *sizes, "--plugin", plugin)
    found = json.loads(capsys.readouterr().out)
    assert found["trained_parameters"]["bitfit"] == trained
    memory = found["memory"]["bitfit"]["bytes"]
    assert memory["gradients"] == memory["original"] == 4 * trained

    # ask, and export: the folder is an ordinary checkpoint
    run("ask", output / "adaptation", QUESTION)
    run("export", output / "adaptation", tmp_path / "exported")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert all((exported[name] == after[name]).all() for name in after)


def test_an_outside_method_stands_where_it_says_in_the_ladder(plugin: str):
    load_plugin(plugin)
    order = list(METHODS)
    assert order[order.index("lora") + 1] == "bitfit"
    assert [name for name in order if name != "bitfit"] == list(LADDER)
    assert METHODS["bitfit"].name == "bitfit" and len(METHODS) == len(LADDER) + 1


def test_outside_methods_follow_each_other_and_by_default_stand_at_the_top(plugin: str):
    for name, after in (("c", "b"), ("b", "lora"), ("top", None), ("lost", "nowhere")):
        METHODS.register(name, after=after)(type(name, (TuningMethod,), {}))
    position = LADDER.index("lora") + 1
    assert list(METHODS) == [*LADDER[:position], "b", "c", *LADDER[position:], "top", "lost"]


def test_a_name_that_is_taken_is_refused(plugin: str):
    with pytest.raises(ValueError, match="method 'lora' is registered already"):
        METHODS.register("lora")(type("Mine", (TuningMethod,), {}))


def test_the_names_of_methods_are_known_without_loading_jax():
    code = "import sys, adapt_jax.methods.registry; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
