"""A stand-in for the sampling engine that says what a test tells it to say."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from adapt_jax.sampling.engine import Candidate, GenerationConfig, Request


def scripted(say: Callable[[str, int], str | Candidate]) -> type:
    """An Engine class whose candidates are ``say(question's id, candidate's number)``."""

    class Scripted:
        def __init__(
            self, model: Any, prefix: Any, generation_config: GenerationConfig, **options: Any
        ):
            self.generation_config = generation_config

        def run(
            self,
            requests: Sequence[Request],
            on_progress: Any = None,
            is_decided: Callable[[int], bool] | None = None,
            answered: Collection[int] = (),
        ) -> Iterator[tuple[int, int, Candidate]]:
            for number in reversed(range(self.generation_config.candidates)):
                for index, request in enumerate(requests):
                    if index in answered or (is_decided is not None and is_decided(index)):
                        continue
                    said = say(request.id, number)
                    if isinstance(said, str):
                        said = Candidate(said, (5, 6, 7), -1.0, "stop")
                    yield index, number, said

    return Scripted
