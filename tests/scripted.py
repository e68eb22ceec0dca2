"""A stand-in for the sampling engine that says what a test tells it to say."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from adapt_jax.sampling.engine import Candidate, Decoding, Request


def scripted(say: Callable[[str, int], str | Candidate]) -> type:
    """An Engine class whose candidates are ``say(question's id, candidate's number)``."""

    class Scripted:
        def __init__(self, model: Any, prefix: Any, decoding: Decoding, **options: Any):
            self.decoding = decoding

        def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, int, Candidate]]:
            for number in reversed(range(self.decoding.candidates)):
                for index, request in enumerate(requests):
                    said = say(request.id, number)
                    if isinstance(said, str):
                        said = Candidate(said, (5, 6, 7), -1.0, "stop")
                    yield index, number, said

    return Scripted
