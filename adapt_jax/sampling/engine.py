"""The sampling engine: many candidates for the price of one prompt.

The prefix is encoded once and all rows attend to it. A question is encoded once and its keys and
values are copied into the slots of its candidates. Slots decode in chunks of steps on the device;
between chunks the host looks for stop strings, takes finished candidates out and puts waiting ones
in. Shapes never change on the way, so nothing compiles twice.
"""

import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from adapt_jax.decoders import sharding
from adapt_jax.decoders.prefix import Prefix, bucket
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.errors import UserError, nearest
from adapt_jax.sampling.candidates import Waiting, Writing
from adapt_jax.sampling.decoding import Candidate, Decoding, Request
from adapt_jax.sampling.steps import Cache, Rows, decode, encode_front, encode_questions, fill

COLUMNS = 64  # a slot's cache is a multiple of this, so that compiled code is reused
ROWS = 16  # questions encoded at a time
SHORTEST = 32  # questions are padded to this length or its doubles, by their own length alone


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
        self.encoded_prefix = encode_front(self.graph, self.weights, embeddings, len(prefix))

    def run(
        self,
        requests: Sequence[Request],
        on_progress: Callable[[int, int], None] | None = None,
        enough: Callable[[int], bool] | None = None,
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
            UserError: for a request without tokens, and for logits that are not finite.
        """
        fitting = []
        for index, request in enumerate(requests):
            if not request.tokens:
                raise UserError(f"request {request.id!r}: has no tokens")
            if self.limit(request) >= 1:
                fitting.append(index)
                continue
            if index in answered:
                continue
            for candidate in range(self.decoding.candidates):
                yield index, candidate, Candidate("", (), 0.0, "too_long")
        total = len(fitting) * self.decoding.candidates
        if not total:
            return
        count = self._slot_count(total)
        longest = max(len(requests[i].tokens) + self.limit(requests[i]) for i in fitting)
        cache, rows = self._empty(count, bucket(longest, COLUMNS))
        breadth = 1 if enough is None else max(1, count // min(ROWS, count))
        left = [index for index in fitting if index not in answered]
        batches = self._batches(requests, left, min(ROWS, count), breadth)
        waiting: deque[Waiting] = deque()
        writing: dict[int, Writing] = {}  # by slot
        finished = generated = 0
        while True:
            for update in self._refill(
                count, requests, writing, waiting, batches, enough is not None
            ):
                cache, rows = fill(cache, rows, *update)
            if not writing:
                return
            retired: set[int] = set()
            cache, rows, *news = decode(
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
                if enough is not None and enough(text.request):
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
        """How many new tokens this request may get."""
        room = self.model.config.context_length - len(self.prefix) - len(request.tokens)
        return min(self.decoding.max_new_tokens, room)

    def _slot_count(self, total: int) -> int:
        """No more slots than are needed, rounded to four sizes per doubling, whole per device."""
        step = max(1, 1 << (total - 1).bit_length() >> 3)
        count = min(self.slots, bucket(total, step))
        if self.mesh is None:
            return count
        return bucket(count, self.mesh.shape["data"] * self.mesh.shape["fsdp"])

    def _empty(self, count: int, columns: int) -> tuple[Cache, Rows]:
        """Idle slots, spread over the mesh where there is one."""
        config = self.model.config
        shape = (count, config.num_kv_heads, columns, config.head_dim)

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
        self, requests: Sequence[Request], indices: list[int], size: int, breadth: int
    ) -> Iterator[list[Waiting]]:
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
                    for row, index in enumerate(batch[start : start + size]):
                        question = requests[index].tokens[:-1]
                        tokens[row, : len(question)], lengths[row] = question, len(question)
                    parts.append(
                        encode_questions(
                            self.graph, self.weights, self.encoded_prefix, tokens, lengths
                        )
                    )
                parts += parts[-1:] * (breadth - len(parts))  # one shape, so that fill is reused
                encoded = parts[0]
                if breadth > 1:
                    encoded = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
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
        breadth_first: bool,
    ) -> Iterator[tuple[Any, ...]]:
        """Gives free slots to waiting candidates; yields what _fill must put where."""
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
