"""Adaptation: the result of adapting a decoder. It is asked the bare question."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.adaptation.kept_files import open_prefix_files
from adapt_jax.adaptation.session import BULK_CACHE_MULTIPLE, Session, build_prefixes
from adapt_jax.adaptation.storage import AdaptationContent, read_adaptation, save_adaptation
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.this_host import copy_to_this_host
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import tokenize
from adapt_jax.prompting.voting import VOTES
from adapt_jax.sampling.prefix_files import PrefixFiles
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.example import Example
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.hashing import extension_version, identity
from adapt_jax.utils.progress import OnProgress

__all__ = ["Adaptation"]

ANSWERING_VERSION = 1  # raised when the same adaptation answers otherwise than before


@dataclass
class Adaptation(AdaptationContent):
    """A decoder, and the prompt that is prepended to each question.

    Attributes:
        method: by which it was made, such as "lora".
        prompt: wording, demonstrations, generation settings, how answers are read and voted.
        model: the decoder that answers, LoRA weights merged.
        soft_prompt: learned embeddings that are prepended to the prompt.
        lora_weights: low-rank updates, merged into ``model`` already; they are saved in its place.
        has_full_weights: all weights of ``model`` belong to this adaptation and are saved with it.
        source_dtype: of the files of the decoder that was adapted, where ``model.path`` no longer
            says it.
        question_format: how the task that it was made for reads questions from a file.
        folder: where it was saved last, or read from.
    """

    folder: Path | None = None
    _session: Session | None = field(default=None, init=False, repr=False, compare=False)
    _prefix_files: PrefixFiles | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        """16 hex digits over all that its answers depend on, besides question and seed.

        Not over what has no effect on them: where files lie, how the work is spread over devices.
        """
        soft_prompt = None
        if self.soft_prompt is not None:
            embeddings = np.asarray(self.soft_prompt.embeddings[...])
            soft_prompt = (embeddings, self.soft_prompt.before_bos)
        return identity(
            ANSWERING_VERSION,
            self.model.identity,
            self.prompt,
            extension_version(PARSERS[self.prompt.parser]),
            extension_version(VOTES[self.prompt.vote]),
            soft_prompt,
        )

    def session(self, *, seed: int = 0, max_concurrent_sequences: int | None = None) -> Session:
        """A session: it encodes the prompt prefix once and answers one question after the other.

            session = adaptation.session()
            for question in questions:
                print(session.ask(question).answer)

        Args:
            seed: of sampled candidates.
            max_concurrent_sequences: candidates that are generated at the same time; by default
                what memory allows.
        """
        return self._make_session(seed, max_concurrent_sequences)

    def ask(self, question: str, choices: Sequence[str] = (), *, seed: int = 0) -> Prediction:
        """Answers one bare question. The encoded prompt prefix is kept for the next one.

        Raises:
            UserError: the question is empty, or too long for the decoder's context.
        """
        session = self._session
        is_current = session is not None and session.is_current(
            copy_to_this_host(self.model), self.prompt, self.soft_prompt
        )
        if session is None or not is_current or session.seed != seed:
            session = self._session = self.session(seed=seed)
        return session.ask(question, choices)

    def answer(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Prediction]:
        """Answers every example, in their order."""
        session = self._make_bulk_session(seed, max_concurrent_sequences)
        return session.answer(examples, on_progress=on_progress)

    def stream(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        answered: Collection[int] = (),
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """(index, prediction) of each example, as soon as it is decided; see ``Session.stream``."""
        session = self._make_bulk_session(seed, max_concurrent_sequences)
        yield from session.stream(examples, answered=answered, on_tokens=on_tokens)

    def _make_bulk_session(self, seed: int, max_concurrent_sequences: int | None) -> Session:
        """A session for many questions at once, which takes no more memory than they need."""
        return self._make_session(
            seed, max_concurrent_sequences, cache_multiple=BULK_CACHE_MULTIPLE
        )

    def _make_session(
        self, seed: int, max_concurrent_sequences: int | None, **options: int
    ) -> Session:
        return Session(
            copy_to_this_host(self.model),
            self.prompt,
            self.soft_prompt,
            seed=seed,
            max_concurrent_sequences=max_concurrent_sequences,
            prefix_files=self._prefix_files,
            **options,
        )

    def prompt_text(self, question: str, choices: Sequence[str] = ()) -> str:
        """Exactly what the decoder sees before it answers, special tokens included.

        A soft prompt, which has no text, is shown by its length at its place.
        """
        rendered = self.prompt.template.format_question(question, choices)
        example = Example(question, question, choices=tuple(choices))
        prompts = self.session().choose_demonstrations([example])
        prompt_prefix, questions = tokenize(self.model, self.prompt, [rendered], prompts)
        *before, last = build_prefixes(self.model, self.soft_prompt, tuple(prompt_prefix))[0].parts
        assert not isinstance(last, SoftPrompt)

        def show(part: Any) -> str:
            if isinstance(part, SoftPrompt):
                return f"[soft prompt of {len(part)} embeddings]"
            ids = [int(token) for token in part]
            return str(self.model.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

        # prefix and question are decoded together: a character may span the border
        return "".join(map(show, [*before, (*last, *questions[0])]))

    def save(self, folder: str | Path) -> Path:
        """Writes the folder, whole or not at all; an adaptation that was there is replaced.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        save_adaptation(self, folder)
        self.folder = to_path(folder)
        return self.folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        decoder: PretrainedDecoder | str | Path | None = None,
    ) -> "Adaptation":
        """Reads a saved adaptation and the decoder it belongs to.

        Args:
            folder: what ``save`` wrote.
            decoder: the decoder, or where it is; by default where it was when it was saved. An
                adaptation with full weights brings its own. A name on the hub is fetched only if
                it is given here.

        Raises:
            UserError: the folder is damaged or no adaptation, it belongs to another decoder, or
                its decoder is not on this machine.
        """
        content = read_adaptation(folder, decoder)
        adaptation = cls(**vars(content), folder=to_path(folder))
        # of a decoder in memory nobody knows whether it is still what its files say
        if content.has_full_weights or not isinstance(decoder, PretrainedDecoder):
            adaptation._prefix_files = open_prefix_files(
                folder, content.model, content.lora_weights
            )
        return adaptation
