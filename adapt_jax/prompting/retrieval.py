"""Retrieval: the demonstrations of a prompt that are chosen for each question."""

from dataclasses import dataclass

from adapt_jax.prompting.similarity import SIMILARITIES
from adapt_jax.tasks.templates import Demonstration
from adapt_jax.utils.errors import UserError

__all__ = ["Retrieval"]


@dataclass(frozen=True)
class Retrieval:
    """Before each question stand the demonstrations nearest to it (2101.06804, section 3).

    Attributes:
        pool: what is chosen from.
        count: the most that are shown.
        similarity: a name in prompting.similarity.SIMILARITIES.
        diversity: 0 shows the nearest ones; more also avoids what is similar to one that is shown
            already (MMR, with lambda = 1 - diversity).
        max_tokens: of all demonstrations together; None: what the context holds.
        answer_tokens: how many the answer needs, which the demonstrations leave free.

    Raises:
        UserError: the pool is empty, or the similarity is not registered.
    """

    pool: tuple[Demonstration, ...]
    count: int
    similarity: str = "bm25"
    diversity: float = 0.0
    max_tokens: int | None = None
    answer_tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", tuple(map(Demonstration.of, self.pool)))
        if not self.pool:
            raise UserError("retrieval.pool: is empty; expected demonstrations to choose from")
        SIMILARITIES.find(self.similarity, "retrieval.similarity")
