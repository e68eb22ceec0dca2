"""Files to begin with, for data that nobody has described: a task file and a comparison."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_jax.comparison.init_rungs import Lengths, PlannedRung, measure_lengths, plan_rungs
from adapt_jax.inspection.speed import measure_speed
from adapt_jax.pretrained.chat import has_chat_template
from adapt_jax.pretrained.without_weights import load_without_weights
from adapt_jax.prompting.prompt import resolve_template
from adapt_jax.tasks.guessing.config import GuessedConfig, format_task_file, guess_config
from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError

__all__ = ["InitResult", "describe", "init"]

INSTRUCT_WORDS = ("instruct", "chat", "-it", "_it")  # of names of decoders that follow instructions
LONG_SECONDS = 3600  # of all rungs, from which a shorter way is named


@dataclass(frozen=True)
class InitResult:
    """What was found, and the two files."""

    guessed: GuessedConfig
    lengths: Lengths
    rungs: list[PlannedRung]
    context_length: int
    decoder: str
    task_file: Path
    compare_file: Path

    @property
    def can_run(self) -> bool:
        """Whether there is a rung that can run."""
        return any(not rung.why_not for rung in self.rungs)


def init(
    data: str, decoder: str = "embedded", output: str | Path | None = None, *, force: bool = False
) -> InitResult:
    """Looks at data and writes ``OUTPUT_task.yaml`` and ``OUTPUT_compare.yaml``.

    Args:
        data: a file, a pattern, a folder, ``tfds:NAME`` or ``datasets:NAME``.
        decoder: a folder, "embedded", or a name on the hub; its weights are not read.
        output: the beginning of both names; by default the name of the data, in this folder.
        force: whether files that are there are replaced.

    Raises:
        UserError: the data or the decoder cannot be read, no question and answer are found, or a
            file is there.
    """
    model = load_without_weights(decoder)
    is_instruct = any(word in str(decoder).lower() for word in INSTRUCT_WORDS)
    chat = is_instruct and has_chat_template(model.tokenizer)
    folder = Path(output).parent if output else Path()
    guessed = guess_config(data, folder, chat)
    start = str(output) if output else guessed.config["name"]
    task_file, compare_file = Path(f"{start}_task.yaml"), Path(f"{start}_compare.yaml")
    for file in (task_file, compare_file):
        if file.exists() and not force:
            raise UserError(f"{file}: is there; --force replaces it, --output names another")
        files.check_target_file(file)
    if chat:
        guessed.reasons["template"] = "the decoder's own chat template: its name says it is tuned"
    elif has_chat_template(model.tokenizer):
        guessed.reasons["template"] = "`chat: true` asks in the decoder's chat template"
    task = resolve_template(guessed.task, model)
    lengths = measure_lengths(model, task)
    rungs = plan_rungs(model, task, lengths, measure_speed())
    result = InitResult(
        guessed, lengths, rungs, model.config.context_length, decoder, task_file, compare_file
    )
    header = "\n".join(["Written by adapt-jax init; every guess has its reason above it.",
                        *_describe_data(result)])  # fmt: skip
    files.write_text(task_file, format_task_file(guessed, header))
    files.write_text(compare_file, _format_compare_file(result))
    return result


def describe(result: InitResult) -> list[str]:
    """What was found, in lines for the terminal."""
    config, reasons = result.guessed.config, result.guessed.reasons
    fields = config["fields"]
    asked = fields.get("messages") or f"{fields['question']!r} asks, {fields['answer']!r} answers"
    lines = [f"source: {_shorten(config['source'])}", f"fields: {asked} ({reasons['fields']})"]
    lines += [f"{key}: {reasons[key]}" for key in ("records", "columns") if key in reasons]
    lines.append(f"answer parser: {config['answer_parser']} ({reasons['answer_parser']})")
    if "choices" in config:
        lines.append(f"labels: {_shorten(', '.join(config['choices']))}")
    lines += _describe_data(result)
    for rung in result.rungs:
        what = f"cannot run: {rung.why_not}" if rung.why_not else f"about {_minutes(rung.seconds)}"
        lines.append(f"  {rung.name:<18} {what}")
    if _sum_seconds(result) > LONG_SECONDS:
        lines.append(
            f"all rungs: about {_minutes(_sum_seconds(result))}; fewer test questions for a first "
            "look: --task.splits.test 50, and rungs by --only zero_shot,few_shot"
        )
    return lines


def _sum_seconds(result: InitResult) -> float:
    return sum(rung.seconds for rung in result.rungs if not rung.why_not)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 150 else text[:147] + "..."


def _describe_data(result: InitResult) -> list[str]:
    """Splits and lengths."""
    task, lengths = result.guessed.task, result.lengths
    lines = [] if task.summary is None else task.summary.describe_splits()
    lines += task.warnings
    lines.append(
        f"tokens of {result.decoder}: questions {lengths.question[0]} (95 %: "
        f"{lengths.question[1]}), answers {lengths.answer[0]} (95 %: {lengths.answer[1]}); the "
        f"longest example has {lengths.longest:,} of {result.context_length:,}"
    )
    if lengths.too_long:
        lines.append(f"{100 * lengths.too_long:.0f} % of the examples do not fit the context")
    return lines


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _format_compare_file(result: InitResult) -> str:
    """The comparison: rungs that can run with their times, the others as comments."""
    decoder, folder = result.decoder, result.compare_file.parent
    if Path(decoder).expanduser().exists():
        decoder = os.path.relpath(Path(decoder).expanduser(), folder)
    total = _sum_seconds(result)
    lines = [
        f"# Written by adapt-jax init. Run it: adapt-jax compare {result.compare_file}",
        f"# About {_minutes(total)} on this machine, within a factor of three: estimated from the",
        "# tokens and parameters, and from a product of matrices that was timed here.",
        f"decoder: {json.dumps(decoder)}",
        f"task: {json.dumps(result.task_file.name)}",
        "seed: 0",
        "",
        "methods: # null, or no line, leaves a rung out" if result.can_run else "methods: {}",
    ]
    for rung in result.rungs:
        options = json.dumps(rung.options).replace('"', "")
        if rung.why_not:
            lines.append(f"  # {rung.name}: {_shorten(rung.why_not)}")
        else:
            lines.append(f"  {rung.name}: {options} # {_minutes(rung.seconds)}")
    return "\n".join(lines) + "\n"
