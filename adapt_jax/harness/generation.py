"""Answers to generation requests of lm-evaluation-harness, as its own model ``hf`` gives them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flax import nnx

from adapt_jax.adaptation.session import find_mesh
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.decoders.sharding import platform_of
from adapt_jax.pretrained.hf_folder import find_folder, read_json
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.shapes import (
    MAX_QUESTION_ROWS,
    RunShape,
    limit_question_tokens,
    pad_question,
    round_up_to_power,
)
from adapt_jax.sampling.shared_contexts import group_contexts
from adapt_jax.sampling.types import Candidate, GenerationConfig, Request
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["Generator", "GenerationRequest", "choose_prefix_length"]

Tokens = tuple[int, ...]
HF_TOP_K = 50  # transformers' default where an answer is sampled
SAMPLING_FIELDS = ("top_k", "top_p", "min_p")  # of a sampled answer; of a greedy one they are void
# arguments of transformers at the values that change nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
    "length_penalty": (0, 1),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "early_stopping": (False,),
    "typical_p": (1,),
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "guidance_scale": (1,),
}
# A run of the engine for one more prefix costs as much as reading these tokens in another run.
GROUP_COST = 1024
CACHE_MULTIPLE = 64  # tokens; a larger one compiles less
MAX_SHORTER = 64  # tokens by which a prefix may be shorter than what its contexts share


@dataclass(frozen=True)
class GenerationRequest:
    """Token ids of a context, which are not cut yet, and the harness's generation arguments."""

    context: Tokens
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class _Settings:
    """What requests that are answered together have in common."""

    config: GenerationConfig
    eos_ids: Tokens
    stop: tuple[str, ...]


class Generator:
    """Generates the answers of one model of the harness.

    Args:
        build_prefix: the prefix with these tokens, to which it may add, such as a soft prompt.
        count_fixed: how many tokens of a context are part of its prefix in any case.
        max_length: tokens of the longest text, context and answer.
        max_gen_toks: new tokens of an answer whose task says nothing.
        think_end_token: where an answer's reasoning ends; it is dropped.
    """

    def __init__(
        self,
        model: PretrainedDecoder,
        build_prefix: Callable[[Tokens], Prefix],
        count_fixed: Callable[[Tokens], int],
        *,
        max_length: int,
        max_gen_toks: int,
        think_end_token: str | int | None,
        seed: int,
        max_concurrent_sequences: int | None,
    ):
        self.model, self.build_prefix, self.count_fixed = model, build_prefix, count_fixed
        self.max_length, self.max_gen_toks = max_length, max_gen_toks
        is_number = isinstance(think_end_token, str) and think_end_token.isdigit()
        self.think_end_token = int(think_end_token or 0) if is_number else think_end_token
        self.seed, self.max_concurrent_sequences = seed, max_concurrent_sequences
        self._file = _read_generation_config(model)

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, str]]:
        """Yields (index, text) of every request, in any order.

        Equal requests share their context; those that are sampled get different answers.

        Raises:
            UserError: an argument is unknown or out of range, or leaves no room for the context.
        """
        # 1. requests that are generated alike
        alike: dict[_Settings, dict[Tokens, list[int]]] = {}
        for index, request in enumerate(requests):
            settings = self._read_arguments(request.arguments)
            room = self.max_length - settings.config.max_new_tokens
            if room < 1:
                raise UserError(
                    f"max_gen_toks: {settings.config.max_new_tokens} leave no room for the "
                    f"context; expected less than {self.max_length}"
                )
            same = alike.setdefault(settings, {})
            same.setdefault(request.context[-room:], []).append(index)
        for settings, indices in alike.items():
            # 2. those among them that are asked equally often, as the engine wants it
            by_count: dict[int, list[Tokens]] = {}
            for context, where in indices.items():
                count = len(where) if settings.config.temperature else 1
                by_count.setdefault(count, []).append(context)
            for count, contexts in by_count.items():
                several = replace(settings, config=replace(settings.config, candidates=count))
                for context, number, candidate in self._run(several, contexts):
                    text = self._read(settings, candidate)
                    where = indices[context]
                    for index in where if count == 1 else (where[number],):
                        yield index, text

    def _run(
        self, settings: _Settings, contexts: Sequence[Tokens]
    ) -> Iterator[tuple[Tokens, int, Candidate]]:
        """Yields (context, candidate number, candidate), one shared prefix after the other."""
        model = _replace_eos(self.model, settings.eos_ids)
        by_fixed: dict[int, list[Tokens]] = {}
        for context in contexts:
            by_fixed.setdefault(self.count_fixed(context), []).append(context)
        for fixed, some in by_fixed.items():
            for shared, members in group_contexts(some, min_prefix=fixed, group_cost=GROUP_COST):
                mesh = find_mesh(model)
                lengths = [len(some[at]) for at in members]
                length = choose_prefix_length(lengths, shared, fixed, platform_of(mesh))
                engine = Engine(
                    model,
                    self.build_prefix(some[members[0]][:length]),
                    settings.config,
                    seed=self.seed,
                    max_concurrent_sequences=self.max_concurrent_sequences,
                    mesh=mesh,
                    cache_multiple=CACHE_MULTIPLE,
                )
                # draws depend on the context alone, not on the other requests
                requests = [
                    Request(" ".join(map(str, some[at])), some[at][length:]) for at in members
                ]
                for at, number, candidate in engine.run(requests):
                    yield some[members[at]], number, candidate

    def _read(self, settings: _Settings, candidate: Candidate) -> str:
        """The text of an answer, without its reasoning and up to the first stop string."""
        from lm_eval.models.utils import postprocess_generated_text

        ids, thought_end = list(candidate.token_ids), self.think_end_token
        if isinstance(thought_end, int) and thought_end in ids:
            ids = ids[len(ids) - ids[::-1].index(thought_end) :]
        text = str(self.model.tokenizer.decode(ids, skip_special_tokens=True))
        if isinstance(thought_end, int):
            return str(postprocess_generated_text(text.lstrip(), list(settings.stop), None))
        return str(postprocess_generated_text(text, list(settings.stop), thought_end))

    def _read_arguments(self, arguments: Mapping[str, Any]) -> _Settings:
        """The settings that the harness's generation arguments name."""
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        given: dict[str, Any] = dict(normalize_gen_kwargs(dict(arguments), self.max_gen_toks))
        tokenizer = self.model.tokenizer
        eos = None
        if tokenizer.eos_token_id is not None:
            eos = str(tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False))
        stop = tuple(filter(None, handle_stop_sequences(given.pop("until", None), eos=eos)))
        new_tokens = given.pop("max_gen_toks")
        is_sampled, temperature = given.pop("do_sample"), given.pop("temperature", None)
        # 1. what the checkpoint's generation_config.json says, then the request
        values: dict[str, Any] = {"repetition_penalty": self._file.get("repetition_penalty")}
        if is_sampled:
            values |= {name: self._file.get(name) for name in SAMPLING_FIELDS}
            values["temperature"] = 1.0 if temperature is None else float(temperature)
            if values["top_k"] is None:
                values["top_k"] = HF_TOP_K
        for name in ("repetition_penalty", *SAMPLING_FIELDS):
            value = given.pop(name, None)
            if value is not None and (is_sampled or name == "repetition_penalty"):
                values[name] = value
        # 2. nothing else may change the answer
        known = ("until", "max_gen_toks", "do_sample", "temperature", "repetition_penalty")
        for name, value in given.items():
            if name not in NEUTRAL:
                names = (*known, *SAMPLING_FIELDS)
                raise UserError(
                    f"generation_kwargs.{name}: not known; expected {', '.join(names)}"
                    f"{nearest(name, names)}"
                )
            if value is not None and value not in NEUTRAL[name]:
                raise UserError(f"generation_kwargs.{name}: {value!r:.60} is not supported")
        config = GenerationConfig(
            max_new_tokens=new_tokens,
            stop=stop,
            **{name: value for name, value in values.items() if value is not None},
        )
        return _Settings(config, self._list_eos_ids(stop), stop)

    def _list_eos_ids(self, stop: Sequence[str]) -> Tokens:
        """The tokens that end an answer: the checkpoint's, and stop strings that are tokens."""
        tokenizer, ids = self.model.tokenizer, list[int]()
        named = self._file.get("eos_token_id")
        ids += named if isinstance(named, list) else [] if named is None else [named]
        special = set(tokenizer.all_special_ids)
        for text in stop:
            found = tokenizer.encode(text, add_special_tokens=False)
            if len(found) == 1 and found[0] in special:
                ids.append(found[0])
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        return tuple(dict.fromkeys(int(one) for one in ids))


def choose_prefix_length(lengths: Sequence[int], shared: int, least: int, platform: str) -> int:
    """How many tokens of what contexts share become their prefix.

    The rest of each context is padded to one of a few lengths, and those of one length are read
    together. Where some rests are just above such a length, a prefix that is a little shorter has
    all of them read, and compiled for, together.

    Args:
        lengths: tokens of each context, all more than ``shared``.
        least: tokens that are part of the prefix in any case.
        platform: of the decoder.

    Returns:
        the number with the fewest padded tokens outside of the prefix; of equals the largest.
    """
    rows = min(MAX_QUESTION_ROWS, round_up_to_power(len(lengths)))
    shape = RunShape(rows, 0, rows, limit_question_tokens(platform))

    def count_padded(length: int) -> int:
        total = 0
        for size, count in Counter(pad_question(one - length) for one in lengths).items():
            together = shape.count_rows(size)
            total += size * together * -(-count // together)
        return total

    return min(range(shared, max(least, shared - MAX_SHORTER) - 1, -1), key=count_padded)


def _read_generation_config(model: PretrainedDecoder) -> dict[str, Any]:
    """The content of the folder's ``generation_config.json``.

    Where there is no such file, or no folder any more, it holds the EOS ids of the decoder.

    Raises:
        UserError: it asks for what is not supported here, and would change the answers.
    """
    try:
        file = find_folder(model.path, weights=False) / "generation_config.json"
    except UserError:
        file = None
    if file is None or not file.is_file():
        return {"eos_token_id": list(model.config.eos_ids)}
    content = read_json(file)
    for name, neutral in NEUTRAL.items():
        value = content.get(name)
        if value not in (None, [], {}) and value not in neutral:
            raise UserError(f"{file}: {name}: {value!r:.60} is not supported")
    return content


def _replace_eos(model: PretrainedDecoder, eos_ids: Tokens) -> PretrainedDecoder:
    """The same decoder, which shares its weights, with other tokens that end an answer."""
    graph, weights = nnx.split(model.decoder)
    decoder = nnx.merge(graph, weights)
    decoder.config = replace(model.config, eos_ids=eos_ids)
    return replace(model, decoder=decoder)
