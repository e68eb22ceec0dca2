"""What tests of several rooms use: a small task, a prompt, and commands that fail."""

import json
from pathlib import Path

import pytest

from adapt_jax.cli.main import main
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.templates import Demonstration, Template

SHORT = {"max_new_tokens": 6}
EXAMPLES = [Example(str(n), f"Joe has {n} oranges and got 1 more. How many?") for n in range(3)]


def write_task(folder: Path, reasoning: bool = True, train: int = 12, test: int = 6) -> dict:
    """A task of small sums in files of its own."""
    folder.mkdir(exist_ok=True)
    for split, first, count in (("train", 0, train), ("test", 50, test)):
        rows = [
            {"question": f"What is {n} + 1?", "answer": str(n + 1)}
            | ({"reasoning": f"One more than {n} is {n + 1}."} if reasoning else {})
            for n in range(first, first + count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "sums",
        "source": {
            "name": "jsonl",
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
        },
        "fields": {"reasoning": "reasoning"} if reasoning else {},
        "instruction": "Solve it.",
    }


def prompt(**generation_config) -> Prompt:
    template = Template()
    generation_config = {"max_new_tokens": 8, "stop": template.stop} | generation_config
    shown = (Demonstration("What is 1 + 1?", "2", "One and one more make 2."),)
    return Prompt(
        template, "Solve it.", shown, True, "number", GenerationConfig(**generation_config)
    )


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Runs a command that must fail with exit code 2 and one line; returns the line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]
