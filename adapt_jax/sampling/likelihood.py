"""The decoder's logits and likelihoods of given texts: nothing is generated.

A context and several continuations of it share one row: every continuation attends to the prefix,
the context and itself, at the positions that it would have alone. So the context is read once, and
logits exist only where a token of a continuation is predicted. This is exact. Where there are many
continuations, they are spread over several rows, so memory does not grow with their number. A
row has only one state, so where layers keep states, every continuation has a row of its own.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.decoders.prefix import Prefix, PrefixCache, PrefixCaches, round_up
from adapt_jax.decoders.sharding import batch_sharding
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import count_common_prefix
from adapt_jax.sampling.compiled import encode_questions
from adapt_jax.sampling.prefix_files import PrefixFiles, read_or_encode
from adapt_jax.sampling.target_scores import (
    TARGETS_AT_ONCE,
    TextRows,
    score_rows,
    score_rows_after_contexts,
)
from adapt_jax.utils.errors import UserError

__all__ = [
    "Batch",
    "LogLikelihood",
    "MultipleChoiceRequest",
    "count_rows",
    "encode_scoring_prefix",
    "log_likelihood",
    "plan_equal_batches",
    "score_continuations",
    "tokenize_texts",
]

LENGTH_MULTIPLE = 32  # rows are padded to a multiple of this, so that compiled code is reused
MAX_ROWS, MAX_TOKENS = 32, 8192  # of a batch
MAX_MASK = 1 << 24  # entries of a batch's attention mask
MAX_ROW_TARGETS = 1024  # predicted tokens of a row, unless one continuation alone has more


@dataclass(frozen=True)
class MultipleChoiceRequest:
    """A context as token ids, and what may follow it. None of them is empty.

    Attributes:
        unscored: how many tokens at the beginning of each continuation are read and not scored,
            fewer than it has; by default every token is scored.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    unscored: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the row. The last token of a continuation is predicted and not read."""
        return len(self.context) + sum(len(one) - 1 for one in self.continuations)

    @property
    def num_scored(self) -> list[int]:
        """Tokens of each continuation that are predicted."""
        unscored = self.unscored or (0,) * len(self.continuations)
        return [len(one) - skip for one, skip in zip(self.continuations, unscored, strict=True)]

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return sum(self.num_scored)

    def keep_longest(self) -> "MultipleChoiceRequest":
        """The same with its longest continuation alone."""
        return MultipleChoiceRequest(self.context, (max(self.continuations, key=len),))

    def split(self) -> "list[MultipleChoiceRequest]":
        """The same as requests of at most MAX_ROW_TARGETS predicted tokens, in order."""
        counts = self.num_scored
        starts, in_part = [0], 0
        for at, count in enumerate(counts):
            if in_part and in_part + count > MAX_ROW_TARGETS:
                starts.append(at)
                in_part = 0
            in_part += count
        parts = [slice(*ends) for ends in zip(starts, [*starts[1:], len(counts)], strict=True)]
        return [
            MultipleChoiceRequest(self.context, self.continuations[part], self.unscored[part])
            for part in parts
        ]


class Batch(NamedTuple):
    """Rows that are scored together.

    Attributes:
        rows: their numbers.
        num_rows: rows of the compiled shape, of which the last ones may be padding.
        length: tokens that each row is padded to.
    """

    rows: list[int]
    num_rows: int
    length: int


class LogLikelihood(NamedTuple):
    """How probable a continuation is.

    Attributes:
        log_probability: summed over its tokens, in nats.
        is_greedy: whether greedy decoding would generate it: no token is less probable than
            another one at its place.
    """

    log_probability: float
    is_greedy: bool


def score_continuations(
    model: PretrainedDecoder,
    prefix: Prefix,
    requests: Sequence[MultipleChoiceRequest],
    *,
    mesh: Mesh | None = None,
    answered: Collection[int] = (),
    encoded_prefix: PrefixCache | None = None,
    plan_batches: Callable[[Sequence[MultipleChoiceRequest], int], Iterator[Batch]] | None = None,
) -> Iterator[tuple[int, list[LogLikelihood]]]:
    """Yields (index, the likelihood of each continuation) for every request, in any order.

    Args:
        prefix: what is prepended to every context; it is encoded once.
        requests: which fit into the decoder's context together with the prefix.
        answered: indices of requests whose scores are known. They are not yielded, but still shape
            the batches, so that the other scores are bitwise identical to those beside them.
        encoded_prefix: what ``encode_scoring_prefix`` gave, where it is known already.
        plan_batches: which rows are scored together; by default ``plan_equal_batches``.
    """
    graph, weights = nnx.split(model.decoder)
    encoded = encoded_prefix or encode_scoring_prefix(model, prefix)
    rows = [(index, part) for index, one in enumerate(requests) for part in one.split()]
    # a row with a state has a context, which continuations go on from, or one continuation alone
    shares_states = bool(model.config.layers_with_state) and any(
        len(one.continuations) > 1 for one in requests
    )
    planned = [part.keep_longest() if shares_states else part for _, part in rows]
    num_missing = Counter(index for index, _ in rows)
    found: dict[int, dict[int, list[LogLikelihood]]] = defaultdict(dict)
    row_multiple = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    score = _score_after_contexts if shares_states else _score_in_rows
    for batch in (plan_batches or plan_equal_batches)(planned, row_multiple):
        # 1. a batch of rows of similar lengths
        if all(rows[number][0] in answered for number in batch.rows):
            continue
        parts_of_batch = [rows[number][1] for number in batch.rows]
        # 2. the log-probability of each predicted token
        scores, is_best = score((graph, weights, encoded), parts_of_batch, batch, mesh)
        # 3. sums by continuation; a request is complete with its last row
        for row, number in enumerate(batch.rows):
            index, request = rows[number]
            if index in answered:
                continue
            found[index][number] = _sum_by_continuation(request, scores[row], is_best[row])
            num_missing[index] -= 1
            if num_missing[index] == 0:
                parts = sorted(found.pop(index).items())
                yield index, [one for _, part in parts for one in part]


def encode_scoring_prefix(
    model: PretrainedDecoder, prefix: Prefix, files: PrefixFiles | None = None
) -> PrefixCache:
    """What layers keep of a prefix, padded as scoring takes it.

    Args:
        files: where encoded prefixes are kept for later processes, if anywhere.
    """
    return read_or_encode(model, *nnx.split(model.decoder), prefix, round_up(len(prefix)), files)


def plan_equal_batches(rows: Sequence[MultipleChoiceRequest], row_multiple: int) -> Iterator[Batch]:
    """Batches of similar lengths. The last one is padded to the size of a full one.

    So the shapes do not depend on how many of the rows are asked.

    Args:
        row_multiple: a batch has a multiple of this many rows.
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number].length)
    while order:
        padded = round_up(rows[order[0]].length, LENGTH_MULTIPLE)
        num_rows = count_rows(padded, row_multiple)
        batch, order = order[:num_rows], order[num_rows:]
        yield Batch(batch, num_rows, round_up(rows[batch[-1]].length, LENGTH_MULTIPLE))


def count_rows(length: int, multiple: int) -> int:
    """Rows of a full batch of this padded length."""
    fitting = min(MAX_ROWS, MAX_TOKENS // length, MAX_MASK // length**2)
    return round_up(max(1, fitting), multiple)


def _score_in_rows(
    decoder: tuple[Any, Any, PrefixCache],
    requests: Sequence[MultipleChoiceRequest],
    batch: Batch,
    mesh: Mesh | None,
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """The log-probability of each target, and whether it is the most probable token.

    Args:
        decoder: its graph, weights, and encoded prefix.
        requests: those of the batch, each a row.
    """
    placed = _place(_build_rows(requests, batch.num_rows, batch.length), mesh)
    scores, is_best = jax.device_get(score_rows(*decoder, placed))
    return scores, is_best


def _score_after_contexts(
    decoder: tuple[Any, Any, PrefixCache],
    requests: Sequence[MultipleChoiceRequest],
    batch: Batch,
    mesh: Mesh | None,
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """As ``_score_in_rows``; contexts are read once, and continuations go on from copies."""
    graph, weights, encoded = decoder
    prefix = PrefixCaches.from_cache(encoded)
    # 1. contexts without their last tokens, which the continuations are predicted from
    tokens = np.zeros((batch.num_rows, batch.length), np.int32)
    lengths = np.zeros(batch.num_rows, np.int32)
    for row, request in enumerate(requests):
        lengths[row] = len(request.context) - 1
        tokens[row, : lengths[row]] = request.context[:-1]
    placed = _place((np.zeros_like(lengths), tokens, lengths), mesh)
    contexts = encode_questions(graph, weights, prefix, *placed)
    # 2. continuations, as many at a time as there are contexts
    single = [
        (row, MultipleChoiceRequest(request.context[-1:], (one,), (len(one) - count,)))
        for row, request in enumerate(requests)
        for one, count in zip(request.continuations, request.num_scored, strict=True)
    ]
    longest = max(one.length for _, one in single)
    width = round_up(longest, TARGETS_AT_ONCE)
    found: list[tuple[list[Any], list[Any]]] = [([], []) for _ in requests]
    for start in range(0, len(single), batch.num_rows):
        some = single[start : start + batch.num_rows]
        context_of_row = np.zeros(batch.num_rows, np.int32)
        context_of_row[: len(some)] = [row for row, _ in some]
        built = _build_rows([one for _, one in some], batch.num_rows, width, width)
        placed = _place((context_of_row, lengths[context_of_row], built), mesh)
        scored = score_rows_after_contexts(graph, weights, prefix, contexts, *placed)
        scores, is_best = jax.device_get(scored)
        for at, (row, one) in enumerate(some):
            found[row][0].append(scores[at, : one.num_targets])
            found[row][1].append(is_best[at, : one.num_targets])
    return [np.concatenate(one) for one, _ in found], [np.concatenate(one) for _, one in found]


def _place(arrays: Any, mesh: Mesh | None) -> Any:
    """A tree of arrays on the devices, with their rows spread over the mesh where there is one."""
    return arrays if mesh is None else jax.device_put(arrays, batch_sharding(mesh))


def _build_rows(
    requests: Sequence[MultipleChoiceRequest], num_rows: int, length: int, width: int = 0
) -> TextRows:
    """The rows of a batch; those without a request are padding.

    Args:
        width: places for targets; 0: as many as are needed.
    """
    width = width or round_up(max(one.num_targets for one in requests), TARGETS_AT_ONCE)
    built = [np.zeros((num_rows, size), np.int32) for size in (length,) * 3 + (width,) * 2]
    for row, request in enumerate(requests):
        tokens, positions, segments, places, targets = (array[row] for array in built)
        context = len(request.context)
        tokens[:context], positions[:context] = request.context, np.arange(context)
        segments[:context] = 1
        at, target = context, 0
        counts = request.num_scored
        for number, (one, count) in enumerate(zip(request.continuations, counts, strict=True), 2):
            read = len(one) - 1
            tokens[at : at + read], segments[at : at + read] = one[:-1], number
            positions[at : at + read] = context + np.arange(read)
            targets[target : target + count] = one[-count:]
            places[target : target + count] = [context - 1, *range(at, at + read)][-count:]
            at, target = at + read, target + count
    return TextRows(*built)  # type: ignore[arg-type]  # put on the device with the call


def _sum_by_continuation(
    request: MultipleChoiceRequest, scores: np.ndarray, is_best: np.ndarray
) -> list[LogLikelihood]:
    ends = np.cumsum(request.num_scored)
    parts = np.split(scores.astype(np.float64), ends)[:-1]
    greedy = np.split(is_best, ends)[:-1]
    return [
        LogLikelihood(float(part.sum()), bool(best.all()))
        for part, best in zip(parts, greedy, strict=True)
    ]


def log_likelihood(
    model: PretrainedDecoder,
    context: str | Sequence[int],
    continuation: str | Sequence[int],
) -> LogLikelihood:
    """How probable a continuation is after a context.

    Args:
        context, continuation: two texts, or two sequences of token ids. Two texts are tokenized
            together, with BOS first; where a token spans their border, it counts as part of the
            continuation.

    Raises:
        UserError: there is no token before the continuation or none in it, or both together do
            not fit the decoder's context.
    """
    if isinstance(context, str) != isinstance(continuation, str):
        raise UserError("log_likelihood: expected two texts, or two sequences of token ids")
    if isinstance(context, str) and isinstance(continuation, str):
        before, joint = model.encode(context), model.encode(context + continuation)
        border = count_common_prefix(before, joint)
    else:
        joint = _check_ids(model, [*context, *continuation])
        border = len(context)
    if not 0 < border < len(joint):
        where = "context" if border == 0 else "continuation"
        raise UserError(f"log_likelihood: the {where} has no tokens; expected at least one")
    if len(joint) > model.config.context_length + 1:
        raise UserError(
            f"log_likelihood: {len(joint)} tokens; the context of {model.path} holds "
            f"{model.config.context_length}"
        )
    request = MultipleChoiceRequest(tuple(joint[:border]), (tuple(joint[border:]),))
    [(_, [found])] = score_continuations(model, Prefix(), [request])
    return found


def tokenize_texts(
    model: PretrainedDecoder, texts: str | Sequence[int] | Sequence[str | Sequence[int]] | Any
) -> list[list[int]]:
    """Rows of token ids, from a text or token ids, or from several of them.

    Texts begin with BOS, where the tokenizer has one.

    Raises:
        UserError: something is no text and no token id of this decoder, or a row is empty.
    """
    given = texts.tolist() if hasattr(texts, "tolist") else texts
    if isinstance(given, str) or (len(given) and isinstance(given[0], int | float | np.number)):
        given = [given]
    rows = [model.encode(one) if isinstance(one, str) else _check_ids(model, one) for one in given]
    if not rows or not all(rows):
        raise UserError("expected texts or token ids; found an empty one")
    return rows


def _check_ids(model: PretrainedDecoder, ids: Any) -> list[int]:
    size = model.config.vocab_size
    for one in ids:
        if not isinstance(one, int | np.integer) or isinstance(one, bool) or not 0 <= one < size:
            raise UserError(f"{one!r:.100}: no token id of {model.path}; expected 0 to {size - 1}")
    return [int(one) for one in ids]
