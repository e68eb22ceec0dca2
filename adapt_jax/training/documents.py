"""Plain text to pretrain on: documents of files, or generated ones, as training examples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.training.packing import TrainingExample
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import read_text

__all__ = ["Documents", "cut_windows", "read_documents"]


class Documents:
    """A generated corpus as a random-access source of training examples (Grain's protocol).

    A document that is longer than ``row_length`` is cut.
    """

    def __init__(
        self, draw: Callable[[int], str], count: int, tokenizer: Any, row_length: int
    ) -> None:
        self.draw, self.count, self.row_length = draw, count, row_length
        self.tokenizer, self.eos = tokenizer, tokenizer.eos_token_id

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> TrainingExample:
        text = self.draw(int(index))
        tokens = [*self.tokenizer(text, truncation=False, verbose=False)["input_ids"], self.eos]
        return TrainingExample(str(index), tuple(tokens[: self.row_length]), 1)


def read_documents(files: Sequence[Path]) -> dict[str, str]:
    """Texts by their place: a .txt file is one document, a .jsonl file has one on each line.

    Raises:
        UserError: a file that is not there or of another kind, a line without text, nothing at all.
    """
    texts: dict[str, str] = {}
    for file in files:
        if file.suffix == ".jsonl":
            for row in read_rows(file):
                text = row.values.get("text")
                if not isinstance(text, str):
                    has = ", ".join(row.values) or "nothing"
                    raise UserError(f"{row.where}: no text in field 'text'; it has: {has}")
                texts[row.where] = text
        elif file.suffix == ".txt":
            texts[str(file)] = read_text(file)
        else:
            raise UserError(f"{file}: expected a .txt or a .jsonl file")
    texts = {where: text for where, text in texts.items() if text.strip()}
    if not texts:
        raise UserError(f"{', '.join(map(str, files))}: holds no text")
    return texts


def cut_windows(
    texts: dict[str, str], encode: Callable[[str], list[int]], eos: int | None, length: int
) -> list[TrainingExample]:
    """Every token of the texts as a target once, in windows of at most ``length`` tokens.

    A document ends with EOS. Where it is longer than a window, the next one begins with the token
    that the one before ended with.
    """
    examples = []
    for where, text in texts.items():
        tokens = [*encode(text), *([] if eos is None else [eos])]
        for start in range(0, max(len(tokens) - 1, 1), length - 1):
            window = tuple(tokens[start : start + length])
            if len(window) > 1:
                examples.append(TrainingExample(f"{where}, token {start}", window, 1))
    return examples
