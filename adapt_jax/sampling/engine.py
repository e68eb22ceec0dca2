"""The sampling engine: many candidates for the price of one prompt.

The prefix is encoded once and all rows attend to it. A question is encoded once and its keys and
values are copied into the slots of its candidates. Slots decode in chunks of steps on the device;
between chunks the host looks for stop strings, takes finished candidates out and puts waiting ones
in. Shapes never change on the way, so nothing compiles twice.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from adapt_jax.decoders import sharding
from adapt_jax.decoders.attention import KeysValues, causal_mask
from adapt_jax.decoders.prefix import Prefix, PrefixCache, bucket, encode_prefix
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.errors import UserError, nearest
from adapt_jax.sampling.logits import Sampling, choose, draw_keys, log_probability
from adapt_jax.sampling.stopping import cut_at_stop

COLUMNS = 64  # a slot's cache is a multiple of this, so that compiled code is reused
CHUNK = 8  # decoding steps on the device between two looks by the host
ROWS = 16  # questions encoded at a time
SHORTEST = 32  # questions are padded to this length or its doubles, by their own length alone


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: after the question; the context may leave less.
        temperature, top_k, top_p, min_p: see logits.Sampling.
        candidates: texts per question.
        stop: strings that end a text, and are not part of it; EOS always does.

    Raises:
        UserError: for values that contradict each other or are out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    candidates: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)  # JSON brings a list
        wrong = [
            (self.max_new_tokens < 1, "max_new_tokens", "at least 1"),
            (self.candidates < 1, "candidates", "at least 1"),
            (not 0 <= self.temperature < float("inf"), "temperature", "0 or more"),
            (self.top_k < 0, "top_k", "0 (off) or more"),
            (not 0 < self.top_p <= 1, "top_p", "above 0, at most 1 (off)"),
            (not 0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1"),
            ("" in self.stop, "stop", "no empty string, which would end every text"),
        ]
        for is_wrong, name, expected in wrong:
            if is_wrong:
                raise UserError(f"decoding.{name}: {getattr(self, name)!r}; expected {expected}")
        if self.candidates > 1 and self.temperature == 0:
            raise UserError(
                f"decoding.candidates: {self.candidates} candidates at temperature 0 would all "
                "be the same; set a temperature above 0, or 1 candidate"
            )

    @property
    def sampling(self) -> Sampling:
        """The part that the compiled step depends on."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)


@dataclass(frozen=True)
class Request:
    """A question as tokens, to be answered behind the prefix. Draws depend on its ``id``."""

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """One generated text.

    Attributes:
        token_ids: what was generated, the EOS or the stop string's tokens included.
        log_probability: of these tokens under the decoder itself (temperature 1, untruncated).
        finish_reason: "eos", "stop", "length", or "too_long" where the question left no room.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probability: float
    finish_reason: str
    reasoning: str = ""
    answer: str | None = None


Cache = list[KeysValues]  # per layer keys and values [B, S, K, H] of question and text, no prefix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What the device knows of each slot, beside its cache. A slot that was never filled is idle.

    ``token`` is the newest one: its keys and values belong to column ``length`` of the cache and
    are not there yet.
    """

    token: Int[Array, " B"]
    length: Int[Array, " B"]  # columns of the cache in use
    written: Int[Array, " B"]  # new tokens so far
    limit: Int[Array, " B"]  # new tokens at most
    example: Int[Array, " B"]  # crc32 of the request's id
    candidate: Int[Array, " B"]
    active: Bool[Array, " B"]

    @staticmethod
    def idle(count: int) -> "Rows":
        """``count`` rows on the host, none of them active."""
        kinds: dict[str, Any] = {"example": np.uint32, "active": bool}
        names = [one.name for one in fields(Rows)]
        rows: dict[str, Any] = {n: np.zeros(count, kinds.get(n, np.int32)) for n in names}
        return Rows(**rows)


# The compiled functions. They take the weights as arguments and the decoder's structure as a
# static one, so that engines over the same shapes share them.


@partial(jax.jit, static_argnums=0)
def _encode_prefix(
    graph: Any, weights: Any, embeddings: Float[Array, "P D"], length: Int[Array, ""]
) -> PrefixCache:
    return encode_prefix(nnx.merge(graph, weights), embeddings, length)


@partial(jax.jit, static_argnums=0)
def _encode_questions(
    graph: Any,
    weights: Any,
    prefix: PrefixCache,
    tokens: Int[Array, "R T"],
    lengths: Int[Array, " R"],
) -> Cache:
    """Keys and values [R, T, K, H] of each row's first ``lengths`` tokens; the rest is padding."""
    decoder = nnx.merge(graph, weights)
    places = jnp.arange(tokens.shape[1])
    segments = (places < lengths[:, None]).astype(jnp.int32)
    positions = jnp.broadcast_to(prefix.length + places, tokens.shape)
    embeddings = decoder.embed(tokens, decoder.embedding[...].dtype)
    return decoder(embeddings, positions, causal_mask(segments), prefix=prefix.blocks)[1]


@partial(jax.jit, donate_argnums=(0, 1))
def _fill(
    cache: Cache,
    rows: Rows,
    where: Int[Array, " B"],
    encoded: Cache,
    question: Int[Array, " B"],
    new: Rows,
) -> tuple[Cache, Rows]:
    """Puts row ``question[i]`` of ``encoded`` and row ``i`` of ``new`` into slot ``where[i]``.

    Nothing is put where ``where`` is beyond the last slot.
    """

    def put(kept: Array, fresh: Array) -> Array:
        return kept.at[where].set(fresh, mode="drop")

    def put_columns(kept: Array, fresh: Array) -> Array:
        columns = min(kept.shape[1], fresh.shape[1])  # padding may be longer than the cache
        return kept.at[where, :columns].set(fresh[question, :columns], mode="drop")

    return jax.tree.map(put_columns, cache, encoded), jax.tree.map(put, rows, new)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(5, 6))
def _decode(
    graph: Any,
    sampling: Sampling,
    eos: tuple[int, ...],
    weights: Any,
    prefix: PrefixCache,
    cache: Cache,
    rows: Rows,
    seed: Key[Array, ""],
) -> tuple[Cache, Rows, Int[Array, "CHUNK B"], Float[Array, "CHUNK B"]]:
    """CHUNK steps of all slots. Returns also the new tokens and their log-probabilities."""
    decoder = nnx.merge(graph, weights)
    columns = jnp.arange(cache[0][0].shape[1])

    def step(carry: tuple[Cache, Rows], _: None) -> tuple[tuple[Cache, Rows], tuple[Array, Array]]:
        cache, rows = carry
        hidden, cache = decoder(
            decoder.embed(rows.token, decoder.embedding[...].dtype)[:, None],
            (prefix.length + rows.length)[:, None],
            (columns <= rows.length[:, None])[:, None],
            prefix=prefix.blocks,
            cache=cache,
            write_at=jnp.where(rows.active, rows.length, columns.size),  # beyond: not written
        )
        logits = decoder.logits(hidden[:, 0])
        keys = draw_keys(seed, rows.example, rows.candidate, rows.written)
        token = choose(logits, keys, sampling).astype(jnp.int32)
        one = rows.active.astype(jnp.int32)
        ended = jnp.isin(token, jnp.asarray(eos, jnp.int32)) | (rows.written + one >= rows.limit)
        after = replace(
            rows,
            token=token,
            length=rows.length + one,
            written=rows.written + one,
            active=rows.active & ~ended,
        )
        return (cache, after), (token, log_probability(logits, token))

    (cache, rows), news = jax.lax.scan(step, (cache, rows), length=CHUNK)
    return cache, rows, *news


@dataclass
class Waiting:
    """A candidate that waits for a slot; its question is row ``row`` of an encoded batch."""

    request: int
    candidate: int
    encoded: Cache
    row: int


@dataclass
class Writing:
    """The host's view of a candidate in a slot: what was generated so far."""

    request: int
    candidate: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)

    def extend(
        self, model: PretrainedDecoder, stop: Sequence[str], tokens: Array, scores: Array
    ) -> Candidate | None:
        """Adds the tokens of a chunk; returns the candidate when they finish it.

        Raises:
            ValueError: when the decoder's logits were not finite.
        """
        seen = len(self.tokens)
        self.tokens += tokens.tolist()
        self.log_probabilities += scores.tolist()
        eos = model.config.eos_ids
        ends = (at for at in range(seen, len(self.tokens)) if self.tokens[at] in eos)
        end = next(ends, self.limit)  # the EOS stands here
        count, reason = (end + 1, "eos") if end < self.limit else (self.limit, "length")
        readable = self.tokens[: min(end, self.limit)]
        cut = cut_at_stop(model.decode, readable, stop, seen)
        if cut is not None:
            (count, text), reason = cut, "stop"
        elif len(self.tokens) < count:
            count, text = len(self.tokens), None
        else:
            text = model.decode(readable)
        if not np.isfinite(self.log_probabilities[seen:count]).all():
            raise ValueError("not finite")
        if text is None:
            return None
        total = float(sum(self.log_probabilities[:count]))
        return Candidate(text, tuple(self.tokens[:count]), total, reason)


class Engine:
    """Generates candidates for many requests behind one prefix.

    For one compiled shape the texts depend on (seed, request id, candidate) alone: not on the
    slot, on who sits in the other slots, or on the order of the requests.

    Args:
        prefix: what stands before every request; encoded once, here.
        slots: candidates that are written at the same time (fewer, where fewer are asked for).
        mesh: slots are spread over its ``data`` and ``fsdp`` axes; the weights lie where
            load_pretrained(mesh=...) put them.

    Raises:
        UserError: when there is no slot, or the prefix alone fills the decoder's context.
    """

    def __init__(
        self,
        model: PretrainedDecoder,
        prefix: Prefix,
        decoding: Decoding,
        *,
        seed: int,
        slots: int = 128,
        mesh: Mesh | None = None,
    ):
        if slots < 1:
            raise UserError(f"slots: {slots}; expected at least 1")
        if len(prefix) >= model.config.context_length:
            raise UserError(
                f"what stands in front of the question has {len(prefix)} tokens, but the context "
                f"of {model.path} holds {model.config.context_length}"
            )
        self.model, self.prefix, self.decoding = model, prefix, decoding
        self.slots, self.mesh = slots, mesh
        self.graph, self.weights = nnx.split(model.decoder)
        self.dtype = model.decoder.embedding[...].dtype
        self.seed = jax.random.key(seed)
        padding = ((0, bucket(len(prefix)) - len(prefix)), (0, 0))
        embeddings = jnp.pad(prefix.embeddings(model.decoder, self.dtype), padding)
        self.encoded_prefix = _encode_prefix(self.graph, self.weights, embeddings, len(prefix))

    def run(
        self, requests: Sequence[Request], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, int, Candidate]]:
        """Yields (request index, candidate index, candidate) as they finish, in no set order.

        A request that leaves no room in the context yields candidates whose finish reason is
        "too_long".

        Args:
            on_progress: called with (candidates finished, tokens generated) after each chunk.

        Raises:
            UserError: for a request without tokens, and for logits that are not finite.
        """
        fitting = []
        for index, request in enumerate(requests):
            if not request.tokens:
                raise UserError(f"request {request.id!r}: has no tokens")
            if self.limit(request) >= 1:
                fitting.append(index)
                continue
            for candidate in range(self.decoding.candidates):
                yield index, candidate, Candidate("", (), 0.0, "too_long")
        total = len(fitting) * self.decoding.candidates
        if not total:
            return
        count = self._slot_count(total)
        longest = max(len(requests[i].tokens) + self.limit(requests[i]) for i in fitting)
        cache, rows = self._empty(count, bucket(longest, COLUMNS))
        batches = self._batches(requests, fitting, min(ROWS, count))
        waiting: deque[Waiting] = deque()
        writing: dict[int, Writing] = {}  # by slot
        finished = generated = 0
        while finished < total:
            for update in self._refill(count, requests, writing, waiting, batches):
                cache, rows = _fill(cache, rows, *update)
            cache, rows, *news = _decode(
                self.graph,
                self.decoding.sampling,
                self.model.config.eos_ids,
                self.weights,
                self.encoded_prefix,
                cache,
                rows,
                self.seed,
            )
            tokens, scores = jax.device_get(news)
            for slot, text in list(writing.items()):
                seen = len(text.tokens)
                try:
                    done = text.extend(
                        self.model, self.decoding.stop, tokens[:, slot], scores[:, slot]
                    )
                except ValueError:
                    raise UserError(
                        f"request {requests[text.request].id!r}: the logits of {self.model.path} "
                        "are not finite; are its weights damaged, or its dtype too narrow?"
                    ) from None
                if done is None:
                    generated += len(text.tokens) - seen
                    continue
                generated += len(done.token_ids) - seen
                finished += 1
                del writing[slot]
                yield text.request, text.candidate, done
            if on_progress is not None:
                on_progress(finished, generated)

    def limit(self, request: Request) -> int:
        """How many new tokens this request may get."""
        room = self.model.config.context_length - len(self.prefix) - len(request.tokens)
        return min(self.decoding.max_new_tokens, room)

    def _slot_count(self, total: int) -> int:
        """No more slots than are needed, a power of two, and a whole number per device."""
        count = min(self.slots, 1 << (total - 1).bit_length())
        if self.mesh is None:
            return count
        return bucket(count, self.mesh.shape["data"] * self.mesh.shape["fsdp"])

    def _empty(self, count: int, columns: int) -> tuple[Cache, Rows]:
        """Idle slots, spread over the mesh where there is one."""
        config = self.model.config
        shape = (count, columns, config.num_kv_heads, config.head_dim)

        def place(x: Array) -> Array:
            axes = ["rows", *(None for _ in x.shape[1:])]
            where = None if self.mesh is None else sharding.sharding(axes, x.shape, self.mesh)
            return jax.device_put(x, where)

        cache = [
            (place(jnp.zeros(shape, self.dtype)), place(jnp.zeros(shape, self.dtype)))
            for _ in range(config.num_layers)
        ]
        return cache, jax.tree.map(place, Rows.idle(count))

    def _batches(
        self, requests: Sequence[Request], indices: list[int], size: int
    ) -> Iterator[list[Waiting]]:
        """Encodes the questions, ``size`` at a time, and yields their candidates.

        The last token of a question is left out: it is the first that a slot reads.
        """

        def padded(index: int) -> int:
            return max(SHORTEST, 1 << (len(requests[index].tokens) - 1).bit_length())

        for length, group in groupby(sorted(indices, key=padded), padded):
            same = list(group)
            for start in range(0, len(same), size):
                batch = same[start : start + size]
                tokens, lengths = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
                for row, index in enumerate(batch):
                    question = requests[index].tokens[:-1]
                    tokens[row, : len(question)], lengths[row] = question, len(question)
                encoded = _encode_questions(
                    self.graph, self.weights, self.encoded_prefix, tokens, lengths
                )
                yield [
                    Waiting(index, candidate, encoded, row)
                    for row, index in enumerate(batch)
                    for candidate in range(self.decoding.candidates)
                ]

    def _refill(
        self,
        count: int,
        requests: Sequence[Request],
        writing: dict[int, Writing],
        waiting: deque[Waiting],
        batches: Iterator[list[Waiting]],
    ) -> Iterator[tuple[Any, ...]]:
        """Gives free slots to waiting candidates; yields what _fill must put where."""
        free = deque(slot for slot in range(count) if slot not in writing)
        while free:
            if not waiting:
                waiting.extend(next(batches, []))
            if not waiting:
                break
            encoded = waiting[0].encoded
            where, question = np.full(count, count, np.int32), np.zeros(count, np.int32)
            new, at = Rows.idle(count), 0
            while free and waiting and waiting[0].encoded is encoded:
                one, slot = waiting.popleft(), free.popleft()
                request = requests[one.request]
                writing[slot] = Writing(one.request, one.candidate, self.limit(request))
                where[at], question[at] = slot, one.row
                new.token[at], new.length[at] = request.tokens[-1], len(request.tokens) - 1
                new.limit[at], new.candidate[at] = self.limit(request), one.candidate
                new.example[at], new.active[at] = zlib.crc32(request.id.encode()), True
                at += 1
            yield where, encoded, question, new


def generate(
    model: PretrainedDecoder,
    prompts: Sequence[str],
    decoding: Decoding | None = None,
    *,
    prefix: Prefix | None = None,
    seed: int = 0,
    **options: Any,
) -> list[list[Candidate]]:
    """Continues each prompt; one list of candidates per prompt.

    Args:
        prompts: whole texts, or what follows ``prefix`` (then BOS, if any, stands there).
        decoding: how; or give its fields by name, as in ``generate(model, ["Once"], top_k=5)``.

    Raises:
        UserError: for a prompt longer than the context, and whatever Decoding refuses.
    """
    try:
        decoding = replace(decoding or Decoding(), **options)
    except TypeError:
        known = [option.name for option in fields(Decoding)]
        wrong = next(name for name in options if name not in known)
        raise UserError(
            f"generate: no option {wrong!r}; it has: {', '.join(known)}{nearest(wrong, known)}"
        ) from None
    if isinstance(prompts, str):
        raise UserError("generate: prompts is a single text; expected a list of texts")
    tokens = [model.encode(prompt, bos=prefix is None) for prompt in prompts]
    requests = [Request(p, tuple(t)) for p, t in zip(prompts, tokens, strict=True)]
    candidates: list[list[Candidate]] = [
        [Candidate("", (), 0.0, "")] * decoding.candidates for _ in prompts
    ]
    for index, number, candidate in Engine(model, prefix or Prefix(), decoding, seed=seed).run(
        requests
    ):
        if candidate.finish_reason == "too_long":
            raise UserError(
                f"prompt {index + 1} has {len(tokens[index])} tokens, with its prefix "
                f"{len(tokens[index]) + len(prefix or ())}; the context of {model.path} holds "
                f"{model.config.context_length}"
            )
        candidates[index][number] = candidate
    return candidates
