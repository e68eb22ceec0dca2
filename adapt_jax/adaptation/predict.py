"""Answers unlabelled questions in bulk, from one JSONL file to another; goes on where it stood."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources import read_jsonl
from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.progress import OnProgress, Pace

Asked = tuple[str, str, tuple[str, ...]]  # id, question, choices
Rows = dict[Asked, str]  # -> the line of its answer


def predict(
    open_adaptation: Callable[[], Adaptation],
    source: Path,
    target: Path,
    *,
    seed: int = 0,
    max_concurrent_sequences: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[int, int]:
    """Answers every question of ``source`` that ``target`` has no answer to.

    Answers are appended as they come; when all are there, they are put in the order of the
    questions. So an interrupted run that is started again ends with the file of one that was not,
    but for the ``seconds``. Answers to other questions that ``target`` held stay in front. Each
    line names by its ``identity`` the adaptation and the seed that gave it.

    Args:
        open_adaptation: opens the adaptation, when both files are found in order.

    Returns:
        how many questions were answered, and how many were before.

    Raises:
        UserError: naming file and line of what is no question, no answer, or an answer of another
            adaptation or seed.
    """
    examples = read_questions(source)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: is the input; expected another file for the answers")
    lines = read_answered(target)
    asked = [(example.id, example.question, example.choices) for example in examples]
    known = {index for index, key in enumerate(asked) if key in lines}
    adaptation = open_adaptation()
    work = identity(adaptation.identity, seed)
    for number, line in enumerate(lines.values(), 1):
        if json.loads(line)["identity"] != work:
            raise UserError(
                f"{target}, line {number}: answered by another adaptation, or with another seed; "
                "choose another file"
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    pace = Pace(on_progress, len(known), len(examples))
    try:
        with target.open("a", encoding="utf-8") as out:
            for index, said in adaptation.stream(
                examples,
                seed=seed,
                max_concurrent_sequences=max_concurrent_sequences,
                answered=known,
                on_tokens=pace.count_tokens,
            ):
                _, question, choices = asked[index]
                row: dict[str, Any] = {"question": question}
                row |= {"choices": choices} if choices else {}
                line = files.to_json_lines([row | said.to_dict() | {"identity": work}])
                out.write(line)
                out.flush()  # what is answered is kept, whatever happens next
                lines[asked[index]] = line
                pace.count_answer()
    finally:
        if not target.stat().st_size:  # a mistake was found before the first answer
            target.unlink()
    mine = set(asked)
    others = [line for key, line in lines.items() if key not in mine]
    files.write_text(target, "".join([*others, *(lines[key] for key in asked)]))
    return len(examples) - len(known), len(known)


def read_questions(path: Path) -> list[Example]:
    """The questions of a JSONL file; the id is the line number where a line has none.

    Raises:
        UserError: naming the line, for one that is no object with a question, or a repeated id.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    examples, seen = [], set[str]()
    for row in read_jsonl(path):
        question = row.values.get("question")
        if not isinstance(question, str) or not question.strip():
            has = ", ".join(row.values) or "nothing"
            raise UserError(f"{row.where}: no text in field 'question'; it has: {has}")
        choices = row.values.get("choices", [])
        if not isinstance(choices, list):
            raise UserError(f"{row.where}: 'choices' is no list: {choices!r}")
        name = str(row.values.get("id", row.number))
        if name in seen:
            raise UserError(f"{row.where}: the id {name!r} stands in an earlier line too")
        seen.add(name)
        examples.append(Example(name, question, choices=tuple(map(str, choices))))
    if not examples:
        raise UserError(f"{path}: holds no question")
    return examples


def read_answered(path: Path) -> Rows:
    """The answers of an earlier run; a last line that was cut off is taken away.

    Raises:
        UserError: naming the line, when the file holds something else.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()  # a cut may go through a letter
    whole, newline, rest = content.rpartition(b"\n")
    answered: Rows = {}
    try:
        lines = whole.decode("utf-8").split("\n") if whole else []
    except UnicodeDecodeError:
        lines = [""]
    for number, line in enumerate(lines, 1):
        try:
            row: Any = json.loads(line)
            row["identity"]  # who gave it
            answered[row["id"], row["question"], tuple(row.get("choices", ()))] = line + "\n"
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}, line {number}: not an answer of an earlier run; choose another file"
            ) from None
    if rest:
        if not (lines or b'{"question"'.startswith(rest[:11])):
            raise UserError(f"{path}: not the answers of an earlier run; choose another file")
        path.write_bytes(whole + newline)
    return answered
