"""The sampling engine: many candidates for the price of one prompt.

The prefix is encoded once, and all slots attend to it. A question is encoded once, and its keys,
values and states are copied into the slots of its candidates. Slots decode in chunks of steps on
the device; between chunks the host looks for stop strings, takes finished candidates out and puts
waiting ones in. Shapes do not change during a run, so nothing compiles twice.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array, Float, Int

from adapt_jax.decoders import sharding
from adapt_jax.decoders.mixers import begin_state
from adapt_jax.decoders.prefix import Prefix, PrefixCache, PrefixCaches, round_up
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.candidates import NonFiniteLogitsError
from adapt_jax.sampling.compiled import (
    Cache,
    SlotState,
    decode_chunk,
    encode_questions,
    insert_into_slots,
)
from adapt_jax.sampling.memory import MAX_USEFUL_SLOTS, count_fitting_slots, count_slot_bytes
from adapt_jax.sampling.prefix_files import PrefixFiles, read_or_encode
from adapt_jax.sampling.scheduler import QuestionBatch, Scheduler
from adapt_jax.sampling.shapes import (
    CACHE_MULTIPLE,
    RunShape,
    count_question_rows,
    limit_question_tokens,
    pad_cache,
    pad_prefix,
    round_up_to_power,
)
from adapt_jax.sampling.types import Candidate, GenerationConfig, Request
from adapt_jax.utils.errors import UserError

__all__ = ["Engine"]

MAX_SEED = 2**32 - 1  # a key of 32 bits distinguishes no more


class Engine:
    """Generates candidates for many requests, each after its prefix.

    ``run`` can be called again and again: prefixes are encoded once, here, and runs of equal
    shapes share their compiled functions. For one compiled shape the texts depend on (seed,
    request id, candidate number) and nothing else: not on the slot, on the other requests, or on
    their order.

    Args:
        prefix: what is prepended to every request; or several, of which each request names one.
        max_concurrent_sequences: candidates that are generated at the same time, at most. By
            default as many as fit into memory, up to a number that keeps a device busy.
        mesh: slots are spread over its ``data`` and ``fsdp`` axes; the weights are where
            load_pretrained(mesh=...) put them.
        cache_multiple: tokens that the length of a slot's cache is rounded up to. If it is large,
            questions of similar lengths share compiled functions.
        prefix_files: where encoded prefixes are kept for later processes, if anywhere. Not used
            with a mesh.

    Raises:
        UserError: there is no prefix, one fills the context alone, or a number is out of range.
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
        cache_multiple: int = CACHE_MULTIPLE,
        prefix_files: PrefixFiles | None = None,
    ):
        if max_concurrent_sequences is not None and max_concurrent_sequences < 1:
            raise UserError(
                f"max_concurrent_sequences: {max_concurrent_sequences}; expected at least 1"
            )
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed: {seed:.10g}; expected 0 to {MAX_SEED}")
        self.prefixes = (prefix,) if isinstance(prefix, Prefix) else tuple(prefix)
        if not self.prefixes:
            raise UserError("prefix: none was given; expected at least one, which may be empty")
        for one in self.prefixes:
            if len(one) >= model.config.context_length:
                raise UserError(
                    f"the prompt prefix has {len(one)} tokens and leaves no room for a question: "
                    f"the context of {model.path} holds {model.config.context_length}"
                )
        self.model, self.generation_config = model, generation_config
        self.max_concurrent_sequences, self.mesh = max_concurrent_sequences, mesh
        self.cache_multiple = cache_multiple
        self.prefix_files = prefix_files if mesh is None else None
        self.graph, self.weights = nnx.split(model.decoder)
        self.dtype = model.decoder.embedding[...].dtype
        self.seed = jax.random.key(seed)
        self.encoded_prefixes = PrefixCaches.concatenate(
            [self._encode_prefix(one) for one in self.prefixes]
        )

    def run(
        self,
        requests: Sequence[Request],
        on_progress: Callable[[int, int], None] | None = None,
        is_decided: Callable[[int], bool] | None = None,
        answered: Collection[int] = (),
    ) -> Iterator[tuple[int, int, Candidate]]:
        """Yields (request index, candidate number, candidate) as they finish, in any order.

        A request that leaves no room for an answer gets candidates whose finish reason is
        "too_long".

        Args:
            on_progress: called with (candidates finished, tokens generated) after each chunk.
            is_decided: whether the request of this index needs no more candidates; asked after
                each of its candidates. The others are then dropped. Candidates enter breadth
                first: the lowest numbers of many requests before the higher ones of each.
            answered: indices of requests that an earlier run has answered. They get no
                candidates, but count towards the shapes, so that the other candidates are bitwise
                identical to those of a run without ``answered``.

        Raises:
            UserError: a request has no tokens or an unknown prefix, logits are not finite, or the
                slots do not fit into memory.
        """
        fitting = [i for i, request in enumerate(requests) if self.limit_new_tokens(request) >= 1]
        for index in sorted(set(range(len(requests))) - {*fitting, *answered}):
            for number in range(self.generation_config.candidates):
                yield index, number, Candidate("", (), 0.0, "too_long")
        if not fitting:
            return
        shape = self._choose_shape([requests[i] for i in fitting], is_decided is not None)
        scheduler = Scheduler(
            requests,
            [index for index in fitting if index not in answered],
            shape,
            num_candidates=self.generation_config.candidates,
            breadth_first=is_decided is not None,
            limit_new_tokens=self.limit_new_tokens,
            encode=self._encode_questions,
            prefixes=self.prefixes,
            vocab_size=self._seen_size,
        )
        yield from self._decode_all(scheduler, on_progress, is_decided)

    def _decode_all(
        self,
        scheduler: Scheduler,
        on_progress: Callable[[int, int], None] | None,
        is_decided: Callable[[int], bool] | None,
    ) -> Iterator[tuple[int, int, Candidate]]:
        """Decodes until no candidate is left; see ``run``."""
        shape = scheduler.shape
        cache, slots = self._make_slots(shape.num_slots, shape.cache_length)
        num_finished = num_tokens = 0
        while True:
            # 1. free slots get the next candidates
            for new in scheduler.refill():
                cache, slots = insert_into_slots(
                    cache, slots, new.where, new.encoded, new.rows, new.new
                )
            if not scheduler.active:
                return
            # 2. all slots decode one chunk on the device
            cache, slots, tokens, scores = self._decode_chunk(cache, slots)
            # 3. candidates that it finished are yielded
            decided: set[int] = set()
            for index, number, candidate, num_new in self._collect(scheduler, tokens, scores):
                num_tokens += num_new
                if candidate is None:
                    continue
                num_finished += 1
                yield index, number, candidate
                if is_decided is not None and is_decided(index):
                    decided.add(index)
            # 4. requests that need no more give up their slots
            if decided:
                scheduler.drop(decided)
            if on_progress is not None:
                on_progress(num_finished, num_tokens)

    def limit_new_tokens(self, request: Request) -> int:
        """How many new tokens a request may get; 0 or less if it does not fit the context.

        The last token is generated and never read, so it needs no place in the context.

        Raises:
            UserError: the request has no tokens, or an unknown prefix.
        """
        if not request.tokens:
            raise UserError(f"request {request.id!r:.100}: has no tokens")
        if not 0 <= request.prefix < len(self.prefixes):
            raise UserError(
                f"request {request.id!r:.100}: has prefix {request.prefix}; "
                f"there are {len(self.prefixes)}"
            )
        room = self._count_room(request) - len(request.tokens) + 1
        return min(self.generation_config.max_new_tokens, room)

    def _count_room(self, request: Request) -> int:
        """How many tokens the context holds after the request's prefix."""
        return self.model.config.context_length - len(self.prefixes[request.prefix])

    @property
    def _seen_size(self) -> int:
        """V of ``SlotState.seen``."""
        penalty = self.generation_config.repetition_penalty
        return self.model.config.vocab_size if penalty != 1 else 0

    def _encode_prefix(self, prefix: Prefix) -> PrefixCache:
        padded = pad_prefix(len(prefix))
        return read_or_encode(
            self.model, self.graph, self.weights, prefix, padded, self.prefix_files
        )

    def _encode_questions(self, batch: QuestionBatch) -> Cache:
        return encode_questions(
            self.graph,
            self.weights,
            self.encoded_prefixes,
            batch.which,
            batch.tokens,
            batch.lengths,
        )

    def _decode_chunk(
        self, cache: Cache, slots: SlotState
    ) -> tuple[Cache, SlotState, Int[np.ndarray, "CHUNK B"], Float[np.ndarray, "CHUNK B"]]:
        cache, slots, *generated = decode_chunk(
            self.graph,
            self.generation_config.sampling,
            self.model.config.eos_ids,
            self.weights,
            self.encoded_prefixes,
            cache,
            slots,
            self.seed,
        )
        tokens, scores = jax.device_get(generated)
        return cache, slots, tokens, scores

    def _collect(
        self,
        scheduler: Scheduler,
        tokens: Int[np.ndarray, "CHUNK B"],
        scores: Float[np.ndarray, "CHUNK B"],
    ) -> Iterator[tuple[int, int, Candidate | None, int]]:
        """Gives each active candidate its new tokens, and frees the slots of finished ones.

        Yields:
            request index, candidate number, the candidate or None if it continues, its new tokens.
        """
        for slot, active in list(scheduler.active.items()):
            before = len(active.tokens)
            try:
                finished = active.extend(
                    self.model, self.generation_config.stop, tokens[:, slot], scores[:, slot]
                )
            except NonFiniteLogitsError:
                request = scheduler.requests[active.request]
                raise NonFiniteLogitsError(
                    f"request {request.id!r:.100}: the logits of "
                    f"{self.model.path} are not finite; are its weights damaged, or its dtype too "
                    "narrow?"
                ) from None
            if finished is None:
                yield active.request, active.candidate, None, len(active.tokens) - before
            else:
                del scheduler.active[slot]
                num_new = len(finished.token_ids) - before
                yield active.request, active.candidate, finished, num_new

    def _choose_shape(self, requests: Sequence[Request], breadth_first: bool) -> RunShape:
        """The shapes of a run, which depend on these requests alone."""
        total = len(requests) * self.generation_config.candidates
        longest = max(
            min(len(request.tokens) + self.limit_new_tokens(request), self._count_room(request))
            for request in requests
        )
        cache_length = pad_cache(longest, self.cache_multiple)
        num_slots = self._count_slots(total, cache_length)
        return RunShape(
            num_slots,
            cache_length,
            count_question_rows(len(requests), num_slots),
            limit_question_tokens(sharding.platform_of(self.mesh)),
            num_slots if breadth_first else 1,
        )

    def _count_slots(self, total: int, cache_length: int) -> int:
        """No more slots than candidates, rounded to four sizes per doubling, whole per device.

        Raises:
            UserError: the slots that were asked for do not fit into memory.
        """
        devices = 1
        if self.mesh is not None:
            devices = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        wanted = self.max_concurrent_sequences
        itemsize = np.dtype(self.dtype).itemsize
        each = count_slot_bytes(self.model.config, cache_length, itemsize, self.mesh)
        fitting = count_fitting_slots(each, devices)
        if wanted is not None and wanted > fitting:
            raise UserError(
                f"max_concurrent_sequences: {wanted} do not fit into memory, at "
                f"{each / 2**20:.1f} MiB each; {fitting} would"
            )
        step = max(1, round_up_to_power(total) >> 3)
        most = MAX_USEFUL_SLOTS if wanted is None else wanted
        return round_up(min(most, round_up(total, step), max(1, fitting)), devices)

    def _make_slots(self, num_slots: int, cache_length: int) -> tuple[Cache, SlotState]:
        """Idle slots, spread over the mesh if there is one, else on the device of the weights."""
        config = self.model.config
        place_of_weights = self.model.decoder.embedding[...].sharding
        device = place_of_weights if isinstance(place_of_weights, SingleDeviceSharding) else None

        def place(x: Array) -> Array:
            if self.mesh is None:
                # bound to a device, as decoding returns it: decoding would compile twice else
                return jax.device_put(x, device)
            if x.ndim >= 3:
                return jax.device_put(x, sharding.cache_sharding(x.shape, self.mesh))
            axes = ["rows", *(None for _ in x.shape[1:])]
            return jax.device_put(x, sharding.array_sharding(axes, x.shape, self.mesh))

        cache: Cache = []
        for index in config.layers_with_kv_cache:
            keys, values = (
                place(jnp.zeros((num_slots, heads, cache_length, size), self.dtype))
                for heads, size in config.kv_cache_sizes(index)
            )
            cache.append((keys, values))
        for _ in config.layers_with_state:
            state = begin_state(config, self.dtype).repeat(num_slots)
            cache.append(jax.tree.map(place, state))
        return cache, jax.tree.map(place, SlotState.idle(num_slots, self._seen_size))
