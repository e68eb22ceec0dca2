"""The sampling engine: many candidates for the price of one prompt.

The prefix is encoded once and all rows attend to it. A question is encoded once and its keys and
values are copied into the slots of its candidates. Slots decode in chunks of steps on the device;
between chunks the host looks for stop strings, takes finished candidates out and puts waiting ones
in. Shapes never change on the way, so nothing compiles twice.
"""

import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array

from adapt_jax.decoders import sharding
from adapt_jax.decoders.prefix import Prefix, PrefixCache, PrefixCaches, round_up
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.candidates import ActiveCandidate, PendingCandidate
from adapt_jax.sampling.compiled import (
    Cache,
    SlotState,
    decode_chunk,
    encode_front,
    encode_questions,
    insert_into_slots,
)
from adapt_jax.sampling.memory import MAX_USEFUL_SLOTS, room_for_slots, slot_bytes
from adapt_jax.sampling.types import Candidate, GenerationConfig, Request
from adapt_jax.utils.errors import UserError

COLUMNS = 16  # a slot's cache is a multiple of this, so that compiled code is reused
ROWS = 16  # questions encoded at a time
FRONT = 32  # prefixes are padded to multiples of this
SHORTEST = 32  # questions are padded to this length or its doubles, by their own length alone


class Engine:
    """Generates candidates for many requests, each behind its prefix.

    For one compiled shape the texts depend on (seed, request id, candidate) alone: not on the
    slot, on who sits in the other slots, or on the order of the requests.

    Args:
        prefix: what stands before every request, or several of which each request names its own;
            encoded once, here.
        slots: candidates that are written at the same time (fewer, where fewer are asked for).
            When not given, as many as fit into memory, up to a number that keeps a device busy.
        mesh: slots are spread over its ``data`` and ``fsdp`` axes; the weights lie where
            load_pretrained(mesh=...) put them.
        cache_multiple: tokens that the length of a slot's cache is rounded up to. Where it is
            large, questions of similar lengths share compiled code.

    Raises:
        UserError: when there is no slot, no prefix, or one that alone fills the context.
    """

    def __init__(
        self,
        model: PretrainedDecoder,
        prefix: Prefix | Sequence[Prefix],
        generation_config: GenerationConfig,
        *,
        seed: int,
        max_concurrent_sequences: int | None = None,
        mesh: Mesh | None = None,
        cache_multiple: int = COLUMNS,
    ):
        if max_concurrent_sequences is not None and max_concurrent_sequences < 1:
            raise UserError(
                f"max_concurrent_sequences: {max_concurrent_sequences}; expected at least 1"
            )
        self.prefixes = (prefix,) if isinstance(prefix, Prefix) else tuple(prefix)
        if not self.prefixes:
            raise UserError("prefix: none was given; expected at least one, which may be empty")
        for one in self.prefixes:
            if len(one) >= model.config.context_length:
                raise UserError(
                    f"what stands in front of the question has {len(one)} tokens, but the context "
                    f"of {model.path} holds {model.config.context_length}"
                )
        self.model, self.generation_config = model, generation_config
        self.max_concurrent_sequences, self.mesh = max_concurrent_sequences, mesh
        self.cache_multiple = cache_multiple
        self.graph, self.weights = nnx.split(model.decoder)
        self.dtype = model.decoder.embedding[...].dtype
        self.seed = jax.random.key(seed)
        self.encoded_prefixes = PrefixCaches.concatenate(
            [self._encode(one) for one in self.prefixes]
        )

    def _encode(self, prefix: Prefix) -> PrefixCache:
        padding = ((0, round_up(len(prefix), FRONT) - len(prefix)), (0, 0))
        embeddings = jnp.pad(prefix.embeddings(self.model.decoder, self.dtype), padding)
        return encode_front(self.graph, self.weights, embeddings, len(prefix))

    def run(
        self,
        requests: Sequence[Request],
        on_progress: Callable[[int, int], None] | None = None,
        is_decided: Callable[[int], bool] | None = None,
        answered: Collection[int] = (),
    ) -> Iterator[tuple[int, int, Candidate]]:
        """Yields (request index, candidate index, candidate) as they finish, in no set order.

        A request that leaves no room in the context yields candidates whose finish reason is
        "too_long".

        Args:
            on_progress: called with (candidates finished, tokens generated) after each chunk.
            enough: whether the request of this index needs no more candidates; asked when one of
                its candidates has been yielded. Those that wait or are being written are dropped
                then, and candidates enter breadth first: the lowest numbers of many requests
                before the higher ones of each.
            answered: indices of requests that were answered before. They are not written again, but
                count towards the shapes, so that the others come out to the bit as beside them.

        Raises:
            UserError: for a request without tokens, for logits that are not finite, and for slots
                that do not fit into memory.
        """
        fitting = []
        for index, request in enumerate(requests):
            if not request.tokens:
                raise UserError(f"request {request.id!r}: has no tokens")
            if not 0 <= request.prefix < len(self.prefixes):
                raise UserError(
                    f"request {request.id!r}: stands behind prefix {request.prefix}; "
                    f"there are {len(self.prefixes)}"
                )
            if self.limit(request) >= 1:
                fitting.append(index)
                continue
            if index in answered:
                continue
            for candidate in range(self.generation_config.candidates):
                yield index, candidate, Candidate("", (), 0.0, "too_long")
        total = len(fitting) * self.generation_config.candidates
        if not total:
            return
        longest = max(
            min(len(requests[i].tokens) + self.limit(requests[i]), self._room(requests[i]))
            for i in fitting
        )
        cache_length = round_up(longest, self.cache_multiple)
        count = self._slot_count(total, cache_length)
        cache, rows = self._empty(count, cache_length)
        breadth = 1 if is_decided is None else max(1, count // min(ROWS, count))
        left = [index for index in fitting if index not in answered]
        size = min(ROWS, count, 1 << (len(fitting) - 1).bit_length())
        batches = self._batches(requests, left, size, breadth)
        waiting: deque[PendingCandidate] = deque()
        writing: dict[int, ActiveCandidate] = {}  # by slot
        finished = generated = 0
        while True:
            for update in self._refill(
                count, requests, writing, waiting, batches, is_decided is not None
            ):
                cache, rows = insert_into_slots(cache, rows, *update)
            if not writing:
                return
            retired: set[int] = set()
            cache, rows, *news = decode_chunk(
                self.graph,
                self.generation_config.sampling,
                self.model.config.eos_ids,
                self.weights,
                self.encoded_prefixes,
                cache,
                rows,
                self.seed,
            )
            tokens, scores = jax.device_get(news)
            for slot, text in list(writing.items()):
                seen = len(text.tokens)
                try:
                    done = text.extend(
                        self.model, self.generation_config.stop, tokens[:, slot], scores[:, slot]
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
                if is_decided is not None and is_decided(text.request):
                    retired.add(text.request)
            if retired:
                kept = [one for one in waiting if one.request not in retired]
                waiting.clear()
                waiting.extend(kept)
                for slot in [s for s, text in writing.items() if text.request in retired]:
                    del writing[slot]
            if on_progress is not None:
                on_progress(finished, generated)

    def limit(self, request: Request) -> int:
        """How many new tokens this request may get.

        The last one is never read again, so it takes no position of the context.
        """
        room = self._room(request) - len(request.tokens) + 1
        return min(self.generation_config.max_new_tokens, room)

    def _room(self, request: Request) -> int:
        """How many tokens the context holds behind the request's prefix."""
        return self.model.config.context_length - len(self.prefixes[request.prefix])

    def _slot_count(self, total: int, cache_length: int) -> int:
        """No more slots than are needed, rounded to four sizes per doubling, whole per device."""
        devices = 1
        if self.mesh is not None:
            devices = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        each = slot_bytes(self.model.config, cache_length, np.dtype(self.dtype).itemsize)
        fitting = room_for_slots(each, devices)
        if self.max_concurrent_sequences is not None and self.max_concurrent_sequences > fitting:
            raise UserError(
                f"max_concurrent_sequences: {self.max_concurrent_sequences} do not fit into memory, "
                f"at {each / 2**20:.1f} MiB each; "
                f"{fitting} would"
            )
        step = max(1, 1 << (total - 1).bit_length() >> 3)
        wanted = (
            MAX_USEFUL_SLOTS
            if self.max_concurrent_sequences is None
            else self.max_concurrent_sequences
        )
        count = min(wanted, round_up(total, step), max(1, fitting))
        return round_up(count, devices)

    def _empty(self, count: int, cache_length: int) -> tuple[Cache, SlotState]:
        """Idle slots, spread over the mesh where there is one, else on the weights' device."""
        config = self.model.config
        held = self.model.decoder.embedding[...].sharding
        home = held if isinstance(held, SingleDeviceSharding) else None
        kinds = [config.layer_config(index) for index in config.layers_with_kv_cache]
        shapes = [(count, kind.num_kv_heads, cache_length, kind.head_dim) for kind in kinds]

        def place(x: Array) -> Array:
            if self.mesh is None:  # bound to a device, as decoding returns it: else it would
                return jax.device_put(x, home)  # compile twice
            axes = ["rows", *(None for _ in x.shape[1:])]
            return jax.device_put(x, sharding.array_sharding(axes, x.shape, self.mesh))

        cache = [
            (place(jnp.zeros(shape, self.dtype)), place(jnp.zeros(shape, self.dtype)))
            for shape in shapes
        ]
        return cache, jax.tree.map(place, self._idle(count))

    def _idle(self, count: int) -> SlotState:
        penalty = self.generation_config.repetition_penalty != 1
        return SlotState.idle(count, self.model.config.vocab_size if penalty else 0)

    def _batches(
        self, requests: Sequence[Request], indices: list[int], size: int, breadth: int
    ) -> Iterator[list[PendingCandidate]]:
        """Encodes the questions, ``size`` at a time, and yields the candidates of ``breadth`` such.

        The last token of a question is left out: it is the first that a slot reads.
        """

        def padded(index: int) -> int:
            return max(SHORTEST, 1 << (len(requests[index].tokens) - 1).bit_length())

        for length, group in groupby(sorted(indices, key=padded), padded):
            same = list(group)
            for first in range(0, len(same), size * breadth):
                batch, parts = same[first : first + size * breadth], []
                for start in range(0, len(batch), size):
                    tokens, lengths = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
                    which = np.zeros(size, np.int32)
                    for row, index in enumerate(batch[start : start + size]):
                        question = requests[index].tokens[:-1]
                        tokens[row, : len(question)], lengths[row] = question, len(question)
                        which[row] = requests[index].prefix
                    parts.append(
                        encode_questions(
                            self.graph,
                            self.weights,
                            self.encoded_prefixes,
                            which,
                            tokens,
                            lengths,
                        )
                    )
                parts += parts[-1:] * (breadth - len(parts))  # one shape, so that fill is reused
                encoded = parts[0]
                if breadth > 1:
                    encoded = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
                yield [
                    PendingCandidate(index, candidate, encoded, row)
                    for row, index in enumerate(batch)
                    for candidate in range(self.generation_config.candidates)
                ]

    def _refill(
        self,
        count: int,
        requests: Sequence[Request],
        writing: dict[int, ActiveCandidate],
        waiting: deque[PendingCandidate],
        batches: Iterator[list[PendingCandidate]],
        breadth_first: bool,
    ) -> Iterator[tuple[Any, ...]]:
        """Gives free slots to waiting candidates; yields what fill must put where."""
        free = deque(slot for slot in range(count) if slot not in writing)
        while free:
            few = breadth_first and len({one.request for one in waiting}) < count // 2
            if not waiting or few:
                waiting.extend(next(batches, []))
            if few:  # more questions stand open: their first candidates go before later ones
                ordered = sorted(waiting, key=lambda one: one.candidate)
                waiting.clear()
                waiting.extend(ordered)
            if not waiting:
                break
            encoded = waiting[0].encoded
            where, question = np.full(count, count, np.int32), np.zeros(count, np.int32)
            new, at = self._idle(count), 0
            while free and waiting and waiting[0].encoded is encoded:
                one, slot = waiting.popleft(), free.popleft()
                request = requests[one.request]
                writing[slot] = ActiveCandidate(one.request, one.candidate, self.limit(request))
                where[at], question[at] = slot, one.row
                new.token[at], new.length[at] = request.tokens[-1], len(request.tokens) - 1
                new.max_new_tokens[at], new.candidate[at] = self.limit(request), one.candidate
                new.example[at], new.active[at] = zlib.crc32(request.id.encode()), True
                new.prefix[at] = request.prefix
                if new.seen.size:
                    prompt_prefix = self.prefixes[request.prefix].parts
                    told = [part for part in prompt_prefix if isinstance(part, tuple)]
                    for tokens in (*told, request.tokens):
                        new.seen[at, list(tokens)] = True
                at += 1
            yield where, encoded, question, new
