"""Asks an exported folder through transformers or PEFT, and compares with the adaptation."""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.recipe import build_recipe
from adapt_jax.adaptation.session import Session, build_prefixes
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.prompt import Prompt, tokenize
from adapt_jax.sampling.candidates import NonFiniteLogitsError
from adapt_jax.utils.errors import UserError

__all__ = ["is_installed", "verify_export"]

MAX_VERIFIED_TOKENS = 32  # of each answer
# Two tokens whose logits differ by less are a tie, which rounding decides.
MAX_TIE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 0.25}
# Asked where the prompt has too few demonstrations.
QUESTIONS = (
    "Jane has 2 apples. She bought 3 more. How many apples does she have in total?",
    "Is the sky blue?",
    "Which city is the capital of France?",
    "What is 17 plus 25?",
    "Name a month that has 30 days.",
)


@dataclass(frozen=True)
class Replay:
    """A question with the token ids before its answer and of the answer, and the answer's text."""

    question: str
    choices: tuple[str, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str


def is_installed(format: str) -> bool:
    """Whether the tools that load this format are installed."""
    return not _list_missing(format)


def _list_missing(format: str) -> list[str]:
    needed = ["torch", "transformers", *(["peft"] if format == "peft" else [])]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def verify_export(
    adaptation: Adaptation, folder: Path, format: str, *, questions: int
) -> list[str]:
    """Asks ``questions`` questions by the code of the folder's README.md, greedily.

    Returns:
        what a user of the folder should know: texts that rounding to a narrower dtype changes, or
        that none could be compared.

    Raises:
        UserError: the tools are not installed, they refuse the folder, or a text differs. Two
            tokens that tie except for rounding are no difference.
    """
    if missing := _list_missing(format):
        raise UserError(
            f"verify: {' and '.join(missing)} is not installed; install it, or verify 0 questions"
        )
    prompt = _make_greedy(adaptation.prompt)
    asked = _choose_questions(prompt, questions)
    model, notes = adaptation.model, list[str]()
    reference = expected = _generate_replays(adaptation, model, prompt, asked)
    if not expected:
        notes.append("No text was compared: every question is too long for the context.")
    if format == "hf":  # the folder's own weights, which may be rounded
        model = load_pretrained(
            folder,
            dtype=model.decoder.embedding[...].dtype,
            context_length=model.config.context_length,
        )
        reference = _generate_replays(adaptation, model, prompt, asked)
        changed = sum(a.text != b.text for a, b in zip(expected, reference, strict=True))
        if changed:
            notes.append(
                f"Rounding the weights to the dtype of the files changes {changed} of "
                f"{len(expected)} texts that were compared; dtype float32 keeps them."
            )
    theirs = _run_recipe(adaptation, folder, format, prompt, reference)
    for one, (ids, answer, text) in zip(reference, theirs, strict=True):
        if ids != list(one.prompt):
            raise UserError(
                f"{_name_tool(format)} reads {len(ids)} tokens where adapt_jax reads "
                f"{len(one.prompt)}, for the question {_cut(one.question)}; nothing was exported"
            )
        if text != one.text and not _is_tie(adaptation, model, one, answer):
            raise UserError(
                f"{_name_tool(format)} generates another text from the exported folder, so nothing "
                f"was exported: to {_cut(one.question)} it answers {_cut(text)}, adapt_jax "
                f"{_cut(one.text)}"
            )
    return notes


def _make_greedy(prompt: Prompt) -> Prompt:
    """The prompt with one short candidate that no draw decides on."""
    decoding = replace(
        prompt.generation_config,
        temperature=0.0,
        candidates=1,
        max_new_tokens=min(prompt.generation_config.max_new_tokens, MAX_VERIFIED_TOKENS),
    )
    return replace(prompt, generation_config=decoding, multiple_choice=None, stop_at=None)


def _choose_questions(prompt: Prompt, count: int) -> list[tuple[str, tuple[str, ...]]]:
    """Questions with their choices: those of the demonstrations first."""
    shown = [(one.question, one.choices) for one in prompt.demonstrations]
    others = [(question, ()) for question in QUESTIONS]
    more = [(f"How much is {n} plus {n + 3}?", ()) for n in range(count)]
    return [*shown, *others, *more][:count]


def _generate_replays(
    adaptation: Adaptation,
    model: PretrainedDecoder,
    prompt: Prompt,
    questions: Sequence[tuple[str, tuple[str, ...]]],
) -> list[Replay]:
    """The generations of adapt_jax for all questions that are not too long.

    Raises:
        NonFiniteLogitsError: the decoder says nothing.
    """
    session, replays = Session(model, prompt, adaptation.soft_prompt), []
    for question, choices in questions:
        try:
            [candidate] = session.ask(question, choices).candidates
        except NonFiniteLogitsError:
            raise
        except UserError:  # too long
            continue
        rendered = prompt.template.format_question(question, choices)
        prefix, [rest] = tokenize(model, prompt, [rendered])
        before = (*prefix, *rest)
        replays.append(Replay(question, choices, before, candidate.token_ids, candidate.text))
    return replays


def _run_recipe(
    adaptation: Adaptation, folder: Path, format: str, prompt: Prompt, replays: Sequence[Replay]
) -> list[tuple[list[int], list[int], str]]:
    """(token ids before the answer, those of the answer, its text) by the code of README.md."""
    code = build_recipe(adaptation, format, folder=str(folder), decoding=prompt.generation_config)
    names: dict[str, Any] = {}
    try:
        with _silence_transformers():
            exec(compile(code, "README.md", "exec"), names)  # our own code, values written by repr
            found = []
            for one in replays:
                answer = names["generate"](one.question, one.choices)
                prompt_ids = names["encode"](one.question, one.choices)
                found.append((prompt_ids, answer, names["decode"](answer)))
            return found
    except Exception as problem:  # whatever the other tool raises
        reason = next(iter(str(problem).strip().splitlines()), "") or type(problem).__name__
        raise UserError(
            f"{_name_tool(format)} cannot use the exported folder, so nothing was exported "
            f"({reason[:200]}); verify 0 exports it unverified"
        ) from problem


@contextmanager
def _silence_transformers() -> Iterator[None]:
    """Without transformers' warnings and progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _is_tie(
    adaptation: Adaptation, model: PretrainedDecoder, one: Replay, answer: Sequence[int]
) -> bool:
    """Whether the first tokens that differ have the same logit, up to rounding."""
    pairs = enumerate(zip(one.answer, answer, strict=False))
    at = next((at for at, (ours, theirs) in pairs if ours != theirs), None)
    if at is None:  # the same tokens, but one text ends earlier
        return False
    tokens = (*one.prompt, *one.answer[:at])
    logits = _compute_next_logits(adaptation, model, tokens)
    dtype = str(model.decoder.embedding[...].dtype)
    gap = abs(float(logits[one.answer[at]]) - float(logits[answer[at]]))
    return gap < MAX_TIE.get(dtype, 0.0)


def _compute_next_logits(
    adaptation: Adaptation, model: PretrainedDecoder, tokens: tuple[int, ...]
) -> np.ndarray:
    """Logits [V] of the token after these, which the soft prompt is prepended to."""
    decoder = model.decoder
    prefix = build_prefixes(model, adaptation.soft_prompt, tokens)[0]
    embeddings = prefix.embeddings(decoder, decoder.embedding[...].dtype)[None]
    positions = jnp.arange(embeddings.shape[1])[None]
    mask = jnp.tril(jnp.ones((embeddings.shape[1],) * 2, bool))[None]
    hidden, _ = decoder(embeddings, positions, mask)
    return np.asarray(decoder.logits(hidden[:, -1])[0], np.float32)


def _name_tool(format: str) -> str:
    return "PEFT" if format == "peft" else "transformers"


def _cut(text: str) -> str:
    """A short form of a text, quoted."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
