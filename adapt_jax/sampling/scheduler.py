"""Which candidate gets which slot. The scheduler runs on the host and computes nothing itself."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Int

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.sampling.candidates import ActiveCandidate, PendingCandidate
from adapt_jax.sampling.compiled import Cache, SlotState, concatenate_rows
from adapt_jax.sampling.shapes import RunShape, pad_question
from adapt_jax.sampling.types import Request

__all__ = ["QuestionBatch", "Scheduler", "SlotUpdate"]


@dataclass(frozen=True)
class QuestionBatch:
    """Questions as arrays; padding rows have length 0. A slot reads the last token itself."""

    which: Int[np.ndarray, " R"]
    tokens: Int[np.ndarray, "R T"]
    lengths: Int[np.ndarray, " R"]


@dataclass(frozen=True)
class SlotUpdate:
    """Candidates for free slots; the arguments of ``compiled.insert_into_slots``."""

    where: Int[np.ndarray, " B"]
    encoded: Cache
    rows: Int[np.ndarray, " B"]
    new: SlotState


class Scheduler:
    """Gives free slots to candidates that wait, and has questions encoded when they are needed.

    With ``breadth_first`` the lowest numbers of many requests go before the higher ones of each:
    a request may be decided by its first candidates, and the others are then never generated.

    Attributes:
        active: the candidates that are being generated, by slot.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        indices: Sequence[int],
        shape: RunShape,
        *,
        num_candidates: int,
        breadth_first: bool,
        limit_new_tokens: Callable[[Request], int],
        encode: Callable[[QuestionBatch], Cache],
        prefixes: Sequence[Prefix],
        vocab_size: int,
    ):
        """``indices`` says which of the requests are answered.

        Args:
            num_candidates: of each request.
            limit_new_tokens: gives the number of new tokens that a request may get.
            encode: gives the keys and values of a batch.
            prefixes: of the requests, whose tokens a repetition penalty counts.
            vocab_size: V of ``SlotState.seen``; 0 without a penalty.
        """
        self.requests, self.shape = requests, shape
        self.num_candidates, self.breadth_first = num_candidates, breadth_first
        self.limit_new_tokens, self.encode, self.prefixes = limit_new_tokens, encode, prefixes
        self.vocab_size = vocab_size
        self.active: dict[int, ActiveCandidate] = {}
        self._pending: deque[PendingCandidate] = deque()
        self._batches = self._encode_batches(indices)

    def refill(self) -> Iterator[SlotUpdate]:
        """Gives every free slot a candidate, as long as some wait."""
        free = deque(slot for slot in range(self.shape.num_slots) if slot not in self.active)
        while free:
            self._fetch_candidates()
            if not self._pending:
                return
            yield self._fill_slots(free)

    def drop(self, requests: set[int]) -> None:
        """Forgets all candidates of these requests, which need no more."""
        self._pending = deque(one for one in self._pending if one.request not in requests)
        for slot in [slot for slot, one in self.active.items() if one.request in requests]:
            del self.active[slot]

    def _fetch_candidates(self) -> None:
        """Has more questions encoded where no candidate waits; breadth first, where few do."""
        is_narrow = (
            self.breadth_first
            and len({one.request for one in self._pending}) < self.shape.num_slots // 2
        )
        if not self._pending or is_narrow:
            self._pending.extend(next(self._batches, []))
        if is_narrow:
            self._pending = deque(sorted(self._pending, key=lambda one: one.candidate))

    def _fill_slots(self, free: deque[int]) -> SlotUpdate:
        """Moves candidates that wait, of one encoded batch, into free slots."""
        encoded = self._pending[0].encoded
        where = np.full(self.shape.num_slots, self.shape.num_slots, np.int32)
        rows = np.zeros(self.shape.num_slots, np.int32)
        new = SlotState.idle(self.shape.num_slots, self.vocab_size)
        at = 0
        while free and self._pending and self._pending[0].encoded is encoded:
            one, slot = self._pending.popleft(), free.popleft()
            request = self.requests[one.request]
            limit = self.limit_new_tokens(request)
            self.active[slot] = ActiveCandidate(one.request, one.candidate, limit)
            where[at], rows[at] = slot, one.row
            new.token[at], new.length[at] = request.tokens[-1], len(request.tokens) - 1
            new.max_new_tokens[at], new.candidate[at] = limit, one.candidate
            new.example[at], new.active[at] = zlib.crc32(request.id.encode()), True
            new.prefix[at] = request.prefix
            if self.vocab_size:
                for tokens in self._list_prompt_tokens(request):
                    new.seen[at, list(tokens)] = True
            at += 1
        return SlotUpdate(where, encoded, rows, new)

    def _list_prompt_tokens(self, request: Request) -> list[tuple[int, ...]]:
        """The token ids of prefix and question; soft prompts have none."""
        parts = self.prefixes[request.prefix].parts
        return [*(part for part in parts if isinstance(part, tuple)), request.tokens]

    def _encode_batches(self, indices: Sequence[int]) -> Iterator[list[PendingCandidate]]:
        """Encodes questions of one padded length at a time, and yields their candidates."""

        def padded_length(index: int) -> int:
            return pad_question(len(self.requests[index].tokens))

        for length, group in groupby(sorted(indices, key=padded_length), padded_length):
            same, size = list(group), self.shape.count_rows(length)
            at_once = self.shape.count_batches(length)
            for first in range(0, len(same), size * at_once):
                chosen = same[first : first + size * at_once]
                encoded = [
                    self.encode(self._build_batch(chosen[start : start + size], size, length))
                    for start in range(0, len(chosen), size)
                ]
                # fewer are filled up, so that what inserts them into slots is compiled once
                encoded += encoded[-1:] * (at_once - len(encoded))
                whole = concatenate_rows(encoded)
                yield [
                    PendingCandidate(index, candidate, whole, row)
                    for row, index in enumerate(chosen)
                    for candidate in range(self.num_candidates)
                ]

    def _build_batch(self, indices: Sequence[int], num_rows: int, length: int) -> QuestionBatch:
        which, lengths = (np.zeros(num_rows, np.int32) for _ in range(2))
        tokens = np.zeros((num_rows, length), np.int32)
        for row, index in enumerate(indices):
            question = self.requests[index].tokens[:-1]
            tokens[row, : len(question)], lengths[row] = question, len(question)
            which[row] = self.requests[index].prefix
        return QuestionBatch(which, tokens, lengths)
