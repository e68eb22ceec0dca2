"""The content of a task file for unknown data, tried by loading it, as YAML with its reasons."""

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt_jax.tasks.guessing.columns import fold_name
from adapt_jax.tasks.guessing.parser import Guess
from adapt_jax.tasks.guessing.source import GuessedSource, guess_source
from adapt_jax.tasks.guessing.task import guess_task
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError

__all__ = ["GuessedConfig", "format_task_file", "guess_config"]

MAX_TEST, MAX_DEVELOPMENT = 300, 100
TEST_SHARE, DEVELOPMENT_SHARE = 0.3, 0.1
MAX_NAMED_LABELS = 600  # characters of all labels together that an instruction names
MIN_LONG_ANSWER = 100  # characters, of half of the answers
MAX_REPAIRS = 6
# columns whose name does not say what is asked for
PLAIN_NAMES = """a answer answers final_answer gold gold_answer target targets output outputs
response completion correct correct_answer correct_option expected expected_answer
ground_truth groundtruth verdict solution chosen final_decision result y""".split()
INSTRUCTIONS = {
    "number": "Solve the problem. Give the answer as a number.",
    "decimal_comma": "Solve the problem. Give the answer as a number with a decimal comma.",
    "yes_no": "Answer the question by {yes_no}.",
    "choice": "Choose the right answer.",
    "text": "Answer the question in a few words.",
    "date": "Answer the question with a date.",
}


@dataclass
class GuessedConfig:
    """A task file that loads.

    Attributes:
        config: its content.
        reasons: by key, why.
        task: as it loads.
    """

    config: dict[str, Any]
    reasons: dict[str, str]
    task: Task
    lines: list[str] = field(default_factory=list)


def guess_config(data: str, folder: Path, chat: bool = False) -> GuessedConfig:
    """The task file for some data.

    Args:
        data: see ``guess_source``.
        folder: where the task file will be; its paths are relative to it.
        chat: whether questions are put in the decoder's chat template.

    Raises:
        UserError: the data cannot be read, or no question and answer are found in it.
    """
    source = guess_source(data)
    guess = guess_task(source.rows)
    config: dict[str, Any] = {
        "name": _choose_name(data),
        "source": _make_relative(source.options, folder),
        "fields": guess.fields,
        "answer_parser": guess.parser,
        **guess.options,
    }
    reasons = {**source.reasons, **guess.reasons}
    config |= _choose_wording(guess, chat)
    config["splits"] = _choose_sizes(source, reasons)
    if guess.parser == "free_text":
        _choose_scorer(config, reasons, guess)
    if guess.unreadable[1]:
        reasons["fields"] += f"; {guess.unreadable[1]} of {len(source.rows)} sampled rows differ"
    task = _load_repaired(config, reasons, source)
    if len(task.test) > MAX_TEST and "test" not in config["splits"]:
        config["splits"] = {**config["splits"], "test": MAX_TEST}
        reasons["splits"] = f"of the {len(task.test):,} test questions; without `test`: all"
        task = _load(config, source)
    if guess.parser == "label":
        task = _list_labels(config, reasons, task, source, guess.fields["answer"])
    return GuessedConfig(config, reasons, task)


def _choose_name(data: str) -> str:
    stem = re.sub(r"\W+", "_", Path(data.rpartition(":")[2]).name.partition(".")[0]).strip("_")
    folder = re.sub(r"\W+", "_", Path(data).resolve().parent.name).strip("_")
    is_split = stem.lower() in ("train", "test", "data", "dev", "validation", "valid", "val")
    return (folder if is_split and folder else stem) or "task"


def _make_relative(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The source with paths relative to the folder of the task file."""
    relative = dict(options)
    for key in ("path", "train", "development", "test"):
        if isinstance(value := relative.get(key), str) and "name" not in options:
            relative[key] = os.path.relpath(Path(value).expanduser(), folder)
    if options.get("name") == "datasets" and Path(str(options["dataset"])).exists():
        relative["dataset"] = os.path.relpath(str(options["dataset"]), folder)
    return relative


def _choose_wording(guess: Guess, chat: bool) -> dict[str, Any]:
    """Instruction, choices and template."""
    wording: dict[str, Any] = {"instruction": INSTRUCTIONS.get(guess.parser, "")}
    template: dict[str, Any] = {"chat": True} if chat else {}
    if guess.parser == "yes_no":
        words = [one for one in ("yes", "no", "maybe") if one in map(str.lower, guess.labels)]
        words = words or ["yes", "no"]
        joined = f"{', '.join(words[:-1])} or {words[-1]}"
        wording["instruction"] = wording["instruction"].replace("{yes_no}", joined)
        answer = str(guess.fields.get("answer", "answer"))
        if fold_name(answer) not in PLAIN_NAMES:
            wording["instruction"] = f"Say of the text, {_name_label(answer)}: {joined}."
        wording["choices"] = words
        template["choice"] = ""
    elif guess.parser == "label":
        name = _name_label(guess.fields["answer"])
        space = "" if chat else " "
        template |= {
            "choice": "",
            "answer": f"{space}{name}: {{answer}}",
            "answer_with_reasoning": f"{space}{{reasoning}} {name}: {{answer}}",
        }
    elif guess.parser == "free_text":
        space = "" if chat else " "
        template |= {"answer": f"{space}{{answer}}", "question": "{question}"}
        if not chat:
            template["question"] = "Q: {question}\nA:"
    if template:
        wording["template"] = template
    return wording


def _name_label(path: str) -> str:
    """What the labels are called before an answer, such as ``Department``."""
    word = re.sub(r"[^\w\s]|_", " ", path.rpartition(".")[2]).strip()
    word = re.sub(r"(?<=\w) (?:text|name)$", "", word, flags=re.IGNORECASE)
    return word[:1].upper() + word[1:] if word.isascii() and word else "Label"


def _ask_for_label(path: str) -> str:
    name = _name_label(path)
    if re.match(r"(?:Is|Has|Was) ", name):
        return f"Say of the text, {name}"
    return f"Name the {name.lower()} of the text"


def _choose_scorer(config: dict[str, Any], reasons: dict[str, str], guess: Guess) -> None:
    """A scorer of long answers, which are seldom equal to the gold answer."""
    lengths = sorted(len(example.answer) for example in guess.examples) or [0]
    is_long = lengths[len(lengths) // 2] > MIN_LONG_ANSWER
    if is_long and importlib.util.find_spec("rouge_score") is not None:
        config |= {"answer_parser": "verbatim", "scorer": "rougeL"}
        reasons["scorer"] = "long answers are seldom equal: words in the same order count (ROUGE-L)"
    else:
        config["scorer"] = "token_f1"
        reasons["scorer"] = "long answers are seldom equal: the words in common count"


def _choose_sizes(source: GuessedSource, reasons: dict[str, str]) -> dict[str, int]:
    """Sizes of the splits: all of those that have a file of their own."""
    count = source.num_rows
    most = MAX_DEVELOPMENT if count is None else round(DEVELOPMENT_SHARE * count)
    development = {"development": min(MAX_DEVELOPMENT, most)}
    if "test" in source.splits:
        if "development" in source.splits:
            return {}
        reasons["splits"] = "the test split has a file of its own"
        return development if development["development"] else {}
    if source.splits != ["all"] and "development" in source.splits:
        development = {}
    test = MAX_TEST if count is None else max(min(MAX_TEST, round(TEST_SHARE * count)), 1)
    reasons["splits"] = "a hash of each question decides; what is left is for the training"
    return {**development, "test": test}


def _load(config: Mapping[str, Any], source: GuessedSource) -> Task:
    """The task; its paths are those of the command line, as the file's folder may be new."""
    return load_task({**config, "source": source.options})


def _load_repaired(config: dict[str, Any], reasons: dict[str, str], source: GuessedSource) -> Task:
    """The task, after keys were added for what its data need.

    Raises:
        UserError: it cannot be loaded whatever is added.
    """
    problem: UserError
    overlap: UserError | None = None
    for _ in range(MAX_REPAIRS):
        try:
            return _load(config, source)
        except UserError as mistake:
            problem = mistake
            if not _repair(config, reasons, str(mistake)):
                raise overlap or mistake from None
            if "allow_overlap" in str(mistake):
                overlap = mistake  # if nothing is left without these questions
    raise problem


def _repair(config: dict[str, Any], reasons: dict[str, str], mistake: str) -> bool:
    """Adds what a refusal asks for; False where that is nothing that may be decided here."""
    is_incomplete = "skip_missing: true" in mistake or ": no field '" in mistake
    if is_incomplete and "skip_missing" not in config:
        config["skip_missing"] = True
        reasons["skip_missing"] = f"rows are incomplete: {_shorten(mistake)}"
    elif "allow_overlap" in mistake and "allow_overlap" not in config:
        config["allow_overlap"] = "drop"
        reasons["allow_overlap"] = "test questions are among the others; they are left out there"
    elif "fields.id" in mistake and "id" in config["fields"]:
        config["fields"] = {k: v for k, v in config["fields"].items() if k != "id"}
    elif "list the labels in `choices`" in mistake or "cannot be read as" in mistake:
        weaker = dict.fromkeys(("label", "number", "decimal_comma", "yes_no", "date"), "text")
        parser = weaker.get(config["answer_parser"], "free_text")
        if config["answer_parser"] == "free_text" or "choices" in config["fields"]:
            return False
        reasons["answer_parser"] = f"another parser fails: {_shorten(mistake)}"
        if config["answer_parser"] == "label":
            config["instruction"] = f"{_ask_for_label(config['fields']['answer'])}."
        config["answer_parser"] = parser
        for key in ("choices", "answer_pattern", "reasoning_pattern", "strip_pattern"):
            config.pop(key, None)
    elif "split is empty" in mistake and config["splits"].get("development") == 0:
        del config["splits"]["development"]
    else:
        return False
    return True


def _shorten(mistake: str) -> str:
    return re.sub(r"^.*/", "", mistake)[:120]


def _list_labels(
    config: dict[str, Any], reasons: dict[str, str], task: Task, source: GuessedSource, column: str
) -> Task:
    """The task with all of its labels as choices, which the instruction names if they are few."""
    if config["answer_parser"] != "label":
        return task
    examples = [*task.train, *task.development, *task.test]
    labels = sorted({example.answer for example in examples})
    named = len(", ".join(labels)) <= MAX_NAMED_LABELS
    what = _ask_for_label(column)
    if fold_name(column) in PLAIN_NAMES and named:
        what = "Answer by one of these"
    config["choices"] = labels
    config["instruction"] = what + (": {choices}." if named else ".")
    reasons["choices"] = f"the {len(labels)} labels that occur"
    if not named:
        reasons["instruction"] = f"{len(labels)} labels are too many to be named in it"
    if all(re.fullmatch(r"-?\d+", label) for label in labels):
        reasons["choices"] += "; they are numbers: say in the instruction what each means"
    try:
        return _load(config, source)
    except UserError:  # labels that cannot be told apart, such as "a" and "A."
        del config["choices"]
        return task


def format_task_file(guessed: GuessedConfig, header: str) -> str:
    """The task file with a comment above each key that has a reason. Its values are JSON."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    order = ("name", "source", "fields", "choices", "instruction", "template", "answer_parser")
    keys = [*(key for key in order if key in guessed.config)]
    keys += [key for key in guessed.config if key not in keys]
    inner = {
        "source": ("source", "records", "columns"),
        "fields": ("fields", "reasoning", "category"),
    }
    for key in keys:
        value = guessed.config[key]
        if value in ("", {}) and key not in ("instruction", "splits"):
            continue
        for part in inner.get(key, (key,)):
            if part in guessed.reasons:
                prefix = f"{part}: " if part != key else ""
                lines.append(f"# {prefix}{guessed.reasons[part]}")
        lines.append(f"{key}: {_to_yaml(value)}")
    return "\n".join(lines) + "\n"


def _to_yaml(value: Any) -> str:
    """JSON, which is YAML, with bare keys and bare simple words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_to_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_yaml, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./]*", value):
        is_word = value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "none")
        return value if is_word else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
