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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.execution import INFERENCE
from adapt_jax.decoders.prefix import Prefix, PrefixCache, round_up
from adapt_jax.decoders.sharding import batch_sharding
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import count_common_prefix
from adapt_jax.sampling.logits import get_log_probability
from adapt_jax.sampling.prefix_files import PrefixFiles, read_or_encode
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
TARGETS_AT_ONCE = 16  # predicted tokens of a row whose logits exist at the same time
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

    def split(self, max_continuations: int | None = None) -> "list[MultipleChoiceRequest]":
        """The same as requests of at most MAX_ROW_TARGETS predicted tokens, in order.

        Args:
            max_continuations: how many continuations a request has at most; None: any number.
        """
        counts = self.num_scored
        starts, in_part = [0], 0
        for at, count in enumerate(counts):
            is_full = at - starts[-1] == max_continuations
            if in_part and (is_full or in_part + count > MAX_ROW_TARGETS):
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
    most = 1 if model.config.layers_with_state else None
    rows = [(index, part) for index, one in enumerate(requests) for part in one.split(most)]
    num_missing = Counter(index for index, _ in rows)
    found: dict[int, dict[int, list[LogLikelihood]]] = defaultdict(dict)
    row_multiple = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    plan = (plan_batches or plan_equal_batches)([part for _, part in rows], row_multiple)
    for batch, num_rows, length in plan:
        # 1. a batch of rows of similar lengths
        if all(rows[number][0] in answered for number in batch):
            continue
        arrays = _build_batch([rows[number][1] for number in batch], num_rows, length)
        placed = arrays if mesh is None else jax.device_put(arrays, batch_sharding(mesh))
        # 2. the log-probability of each predicted token
        scores, is_best = jax.device_get(_score_rows(graph, weights, encoded, *placed))
        # 3. sums by continuation; a request is complete with its last row
        for row, number in enumerate(batch):
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


def _build_batch(
    requests: Sequence[MultipleChoiceRequest], num_rows: int, length: int
) -> list[np.ndarray]:
    """The arrays that ``_score_rows`` takes; rows without a request are padding."""
    width = round_up(max(one.num_targets for one in requests), TARGETS_AT_ONCE)
    arrays = [np.zeros((num_rows, size), np.int32) for size in (length,) * 3 + (width,) * 2]
    for row, request in enumerate(requests):
        tokens, positions, segments, places, targets = (array[row] for array in arrays)
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
    return arrays


@partial(jax.jit, static_argnums=0)
def _score_rows(
    graph: Any,
    weights: Any,
    prefix: PrefixCache,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    places: Int[Array, "B M"],
    targets: Int[Array, "B M"],
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """The log-probability of each target, predicted at its place of the row.

    Args:
        segments: 1 for the context, 2 and on for the continuations, 0 for padding.

    Returns:
        the log-probabilities; and whether no other token is more probable.
    """
    decoder = nnx.merge(graph, weights)
    # 1. a token attends to the context, and to its own continuation
    own, theirs = segments[:, :, None], segments[:, None, :]
    earlier = jnp.tril(jnp.ones((tokens.shape[1], tokens.shape[1]), bool))
    mask = earlier & ((theirs == 1) | (theirs == own)) & (theirs > 0)
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    hidden, _ = decoder(
        embeddings, prefix.length + positions, mask, prefix=prefix.blocks, execution=INFERENCE
    )
    hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)

    # 2. logits exist for a few targets at a time
    def score_some(some: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = decoder.logits(some[0])
        flat, flat_targets = logits.reshape(-1, logits.shape[-1]), some[1].reshape(-1)
        chosen = jnp.take_along_axis(flat, flat_targets[:, None], axis=-1)[:, 0]
        is_best = chosen >= jnp.max(flat, axis=-1)
        scores = get_log_probability(flat, flat_targets)
        return scores.reshape(some[1].shape), is_best.reshape(some[1].shape)

    def split(x: Array) -> Array:  # [B, M, ...] -> [M / TARGETS_AT_ONCE, B, TARGETS_AT_ONCE, ...]
        return jnp.moveaxis(x.reshape(x.shape[0], -1, TARGETS_AT_ONCE, *x.shape[2:]), 1, 0)

    scores, is_best = jax.lax.map(score_some, (split(hidden), split(targets)))
    return tuple(jnp.moveaxis(x, 0, 1).reshape(targets.shape) for x in (scores, is_best))  # type: ignore[return-value]


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
