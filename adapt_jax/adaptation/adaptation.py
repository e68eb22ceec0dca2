"""Adaptation: what adapting a decoder yields. Asked with the bare question, saved as a folder.

adaptation.json          template, instruction, demonstrations, decoding, vote, which decoder
soft_prompt.safetensors  learned embeddings, where there are any
adapter_*                low-rank updates, where there are any, as PEFT reads them too
weights/                 a Hugging Face folder, where the weights themselves were tuned
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from adapt_jax.adaptation.multiple_choice import choose
from adapt_jax.decoders.prefix import Prefix, SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.pretrained.peft_folder import read_adapter, write_lora
from adapt_jax.pretrained.saving import read_source_dtype, save_pretrained
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import Prompt, tokenize
from adapt_jax.prompting.voting import AdaptiveVote, vote
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import Candidate, Request
from adapt_jax.tasks.answers import read_answer
from adapt_jax.tasks.example import Example
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.progress import OnProgress

FORMAT = 1  # of the saved folder
DESCRIPTION, SOFT_PROMPT, WEIGHTS = "adaptation.json", "soft_prompt.safetensors", "weights"


@dataclass
class Adaptation:
    """A decoder, and the prompt that is prepended to each question.

    Attributes:
        lora_weights: low-rank updates, merged into ``model`` already; they are saved in its place.
        has_full_weights: all weights of ``model`` belong to this adaptation and are saved with it.
        folder: where it was saved last, or read from.
        source_dtype: of the files of the decoder that was adapted, where ``model.path`` no longer
            tells it.
    """

    method: str
    prompt: Prompt
    model: PretrainedDecoder
    soft_prompt: SoftPrompt | None = None
    lora_weights: LoRAWeights | None = None
    has_full_weights: bool = False
    folder: Path | None = None
    source_dtype: str | None = None

    @property
    def identity(self) -> str:
        """16 hex digits over all that its answers depend on."""
        soft = self.soft_prompt
        learned = b"" if soft is None else np.asarray(soft.embeddings[...]).tobytes()
        before_bos = soft is not None and soft.before_bos
        members = () if soft is None or not soft.ensemble_size else (soft.ensemble_size,)
        return identity(self.model.fingerprint, self.prompt, learned, before_bos, *members)

    def prefixes(self, tokens: tuple[int, ...]) -> list[Prefix]:
        """The soft prompt on its side of BOS, and these tokens; for every member of an ensemble."""
        if self.soft_prompt is None:
            return [Prefix((tokens,))]
        bos = self.model.config.bos_id
        cut = int(not self.soft_prompt.before_bos and bos is not None and tokens[:1] == (bos,))
        return [Prefix((tokens[:cut], one, tokens[cut:])) for one in self.soft_prompt.members]

    def prefix(self, tokens: tuple[int, ...]) -> Prefix:
        """The one prefix.

        Raises:
            UserError: it is an ensemble, which has several.
        """
        prefix, *others = self.prefixes(tokens)
        if others:
            raise UserError(
                f"an ensemble of {1 + len(others)} soft prompts votes on what it writes; it cannot "
                "choose by likelihood"
            )
        return prefix

    def answer(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        slots: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Prediction]:
        """Answers every example, in their order."""
        answers: dict[int, Prediction] = {}
        for index, answered in self.stream(examples, seed=seed, slots=slots):
            answers[index] = answered
            if on_progress is not None:
                on_progress(len(answers), len(examples))
        return [answers[index] for index in range(len(examples))]

    def stream(
        self,
        examples: Sequence[Example],
        *,
        seed: int = 0,
        slots: int | None = None,
        answered: Collection[int] = (),
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """(index, answer) of each example as soon as it is decided.

        The text of a candidate depends on the seed, the example's id and the candidate's number
        alone, not on who is asked beside it. Where the prompt has a ``stop_at``, a question that
        is decided gets no more candidates. Every member of an ensemble writes the candidates of
        the decoding: number c of member m is the candidate c N + m of the question's N members.

        Args:
            answered: indices of examples that an earlier run has answered, and that are not asked
                again; the others come out to the bit as they would beside them.
            on_tokens: told of (candidates finished, tokens generated) every few steps.
        """
        if not examples:
            return
        if self.prompt.scoring is not None:
            yield from choose(
                self.model,
                self.prompt,
                self.prompt.scoring,
                self.prefix,
                examples,
                mesh=mesh_of(self.model),
                answered=answered,
            )
            return
        started = time.perf_counter()
        prompt = self.prompt
        asked = [
            prompt.template.format_question(example.question, example.choices)
            for example in examples
        ]
        prompt_prefix, questions = tokenize(self.model, prompt, asked)
        prefixes = self.prefixes(tuple(prompt_prefix))
        mesh, members = mesh_of(self.model), len(prefixes)
        engine = Engine(self.model, prefixes, prompt.decoding, seed=seed, slots=slots, mesh=mesh)
        requests = [
            Request(f"{example.id}, member {member}" if member else example.id, (*tokens,), member)
            for example, tokens in zip(examples, questions, strict=True)
            for member in range(members)
        ]
        wanted = members * prompt.decoding.candidates
        polls = [AdaptiveVote(wanted, prompt.stop_at, prompt.vote) for _ in examples]
        is_decided = None if prompt.stop_at is None else lambda at: polls[at // members].decided
        done = {index * members + member for index in answered for member in range(members)}
        run = engine.run(requests, on_tokens, is_decided, done)
        for at, written, candidate in run:
            index, member = divmod(at, members)
            number = written * members + member
            if not polls[index].add(number, self.read(candidate, examples[index])):
                continue
            candidates = polls[index].candidates
            result = vote(candidates, rule=prompt.vote)
            reasonings = (c.reasoning for c in candidates if c.answer == result.answer)
            now = time.perf_counter()
            yield (
                index,
                Prediction(
                    example_id=examples[index].id,
                    answer=result.answer,
                    reasoning=next(reasonings, ""),
                    candidates=candidates,
                    vote=result,
                    prompt_tokens=members * (len(prefixes[0]) + len(questions[index])),
                    generated_tokens=sum(len(c.token_ids) for c in candidates),
                    seconds=now - started,
                    saved=wanted - len(candidates),
                    too_long=candidate.finish_reason == "too_long",
                ),
            )
            started = now

    def read(self, candidate: Candidate, example: Example) -> Candidate:
        """The candidate with its reasoning and answer; one that was cut off abstains."""
        template = self.prompt.template
        reasoning, _ = template.split_reasoning(candidate.text)
        finished = candidate.finish_reason in ("eos", "stop")
        answer = (
            read_answer(self.prompt.parser, candidate.text, template, example.choices)
            if finished
            else None
        )
        return replace(candidate, reasoning=reasoning.strip(), answer=answer)

    def ask(self, question: str, choices: Sequence[str] = (), *, seed: int = 0) -> Prediction:
        """Answers one bare question; the prefix goes in front of it behind the scenes.

        Raises:
            UserError: when the question is empty, or too long for the decoder's context.
        """
        if not question.strip():
            raise UserError("the question is empty")
        example = Example(id=question, question=question, choices=tuple(choices))
        answered = self.answer([example], seed=seed)[0]
        if answered.too_long:
            members = len(self.prefixes(()))
            raise UserError(
                f"the question is too long: with what stands in front of it "
                f"{answered.prompt_tokens // members} tokens, the context of {self.model.path} "
                f"holds {self.model.config.context_length}"
            )
        return answered

    def save(self, folder: str | Path) -> Path:
        """Writes the folder, all of it or nothing; an adaptation that stood there is replaced.

        Raises:
            UserError: when the folder holds something else.
        """
        folder = Path(folder)
        free = not folder.exists() or (folder / DESCRIPTION).exists()
        if not free and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: holds something that is no adaptation; choose another")
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            self.write(new)
            os.chmod(new, 0o755)  # mkdtemp's folders are private
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
            self.folder = folder
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return folder

    def write(self, folder: Path) -> None:
        """The files of the saved folder, into an empty folder."""
        from safetensors.numpy import save_file

        path = Path(self.model.path)
        description = {
            "format": FORMAT,
            "method": self.method,
            "decoder": str(path.resolve()) if path.is_dir() else self.model.path,
            "fingerprint": self.lora_weights.base_fingerprint
            if self.lora_weights
            else self.model.fingerprint,
            "context_length": self.model.config.context_length,
            "source_dtype": self.source_dtype or read_source_dtype(self.model.path),
            "prompt": self.prompt.to_dict(),
            "soft_prompt": self.soft_prompt is not None,
            "before_bos": self.soft_prompt.before_bos if self.soft_prompt is not None else None,
            "lora_weights": self.lora_weights is not None,
            "has_full_weights": self.has_full_weights,
        }
        if self.soft_prompt is not None:
            embeddings = np.asarray(self.soft_prompt.embeddings[...], np.float32)
            save_file({"prompt_embeddings": embeddings}, folder / SOFT_PROMPT)
        if self.lora_weights is not None:
            write_lora(folder, self.lora_weights, self.model)
        if self.has_full_weights:
            save_pretrained(self.model, folder / WEIGHTS)
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, folder: str | Path, decoder: PretrainedDecoder | str | Path | None = None
    ) -> "Adaptation":
        """Reads a saved adaptation and the decoder it belongs to.

        Args:
            folder: what ``save`` wrote.
            decoder: the decoder, or where it lies now; the place it was saved with when not given.
                An adaptation with tuned weights brings its own.

        Raises:
            UserError: when the folder is no adaptation, or belongs to another decoder.
        """
        folder = Path(folder)
        description = read_description(folder)
        try:
            prompt = Prompt.from_dict(description["prompt"])
            method, fingerprint = description["method"], description["fingerprint"]
            has_full_weights, decoder = (
                description["has_full_weights"],
                decoder or description["decoder"],
            )
            has_soft_prompt = description["soft_prompt"]
            before_bos = description["before_bos"]
            has_low_rank = description.get("lora_weights", False)
            source_dtype, context_length = map(description.get, ("source_dtype", "context_length"))
        except KeyError as problem:
            raise UserError(f"{folder / DESCRIPTION}: damaged, {problem} is missing") from None
        except TypeError as problem:
            raise UserError(f"{folder / DESCRIPTION}: damaged, {problem}") from None
        if not isinstance(saved_with := description["decoder"], str):
            raise UserError(f"{folder / DESCRIPTION}: damaged, decoder is {saved_with!r}")
        if has_full_weights:
            decoder = folder / WEIGHTS
        if not isinstance(decoder, PretrainedDecoder):
            decoder = load_pretrained(decoder, context_length=context_length)
        if decoder.fingerprint != fingerprint:
            raise UserError(
                f"{folder}: belongs to another decoder than {decoder.path} "
                f"(fingerprint {fingerprint}, found {decoder.fingerprint})"
            )
        soft_prompt = None
        if has_soft_prompt:
            soft_prompt = read_soft_prompt(folder / SOFT_PROMPT, decoder, before_bos)
        lora_weights = None
        if has_low_rank:
            lora_weights = read_adapter(folder, decoder).lora_weights
            if lora_weights is None:
                raise UserError(f"{folder}: {DESCRIPTION} tells of low-rank updates, found none")
            decoder = lora_weights.merge_into(decoder)
        return cls(
            method,
            prompt,
            decoder,
            soft_prompt,
            lora_weights,
            has_full_weights,
            folder,
            source_dtype,
        )


def mesh_of(model: PretrainedDecoder) -> Mesh | None:
    """The mesh that the decoder lies on; None where it lies on one device."""
    place = model.decoder.embedding[...].sharding
    if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
        return place.mesh
    return None


def read_description(folder: Path) -> dict[str, Any]:
    """adaptation.json, or a UserError that says what is wrong with it."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder}: no adaptation here ({DESCRIPTION} not found)")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(f"{path}: not valid JSON ({problem})") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"{path}: not an adaptation of format {FORMAT}")
    return description


def read_soft_prompt(path: Path, model: PretrainedDecoder, before_bos: bool) -> SoftPrompt:
    """The learned embeddings, [P, D] of this decoder, [N, P, D] of an ensemble."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        embeddings = load_file(path)["prompt_embeddings"]
    except (OSError, SafetensorError, KeyError) as problem:
        raise UserError(f"{path}: no soft prompt can be read ({problem})") from None
    if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != model.config.embed_dim:
        raise UserError(
            f"{path}: shape {embeddings.shape}, but the embeddings of {model.path} "
            f"have size {model.config.embed_dim}"
        )
    return SoftPrompt(jnp.asarray(embeddings), before_bos)
