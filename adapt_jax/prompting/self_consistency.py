"""Self-consistency: sample many reasonings, then vote (2203.11171).

The vote of this project counts **distinct** reasonings: a repeat of the same reasoning for the
same answer is ignored. Two reasonings are the same when they are equal after white space is folded
and letters are lowered. The paper's majority counts every sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any, ClassVar

from pydantic import Field, field_validator

from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.errors import UserError, nearest
from adapt_jax.prompting.chain_of_thought import ChainOfThought
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task


@dataclass(frozen=True)
class Vote:
    """What the candidates of one question decided.

    Attributes:
        answer: the winner; None where every candidate abstained.
        confidence: the winner's share of all that was counted, 0 to 1.
        counts: what each answer got under the rule, in the order of their first candidates.
        tied: the answers with the highest count, before the tie was broken.
        abstained, repeats: candidates without an answer, and with a reasoning seen before.
    """

    answer: str | None
    confidence: float
    counts: dict[str, float]
    rule: str
    tied: tuple[str, ...] = ()
    abstained: int = 0
    repeats: int = 0


@dataclass
class Ballot:
    """All candidates of one answer."""

    candidates: list[Any] = field(default_factory=list)

    @property
    def reasonings(self) -> set[str]:
        """The distinct ones."""
        return {same_reasoning(candidate) for candidate in self.candidates}

    @property
    def log_probability(self) -> float:
        """Summed over the candidates that have one."""
        return sum(
            getattr(candidate, "log_probability", None) or 0.0 for candidate in self.candidates
        )


def same_reasoning(candidate: Any) -> str:
    """What two candidates share when their reasonings are the same."""
    return " ".join((getattr(candidate, "reasoning", "") or "").lower().split())


def _weight(candidate: Any, normalised: bool) -> float:
    """The decoder's own probability of a text (2203.11171, section 2, equation 1)."""
    total = getattr(candidate, "log_probability", None)
    if total is None:
        raise UserError("a weighted vote needs candidates with a log_probability")
    tokens = len(getattr(candidate, "token_ids", ())) or 1
    return exp(total / tokens if normalised else total)


# A rule says what the candidates of one answer count; a new one is a function with a name here.
VOTES: dict[str, Callable[[Ballot], float]] = {
    "distinct": lambda ballot: len(ballot.reasonings),
    "majority": lambda ballot: len(ballot.candidates),
    "weighted": lambda ballot: sum(_weight(c, True) for c in ballot.candidates),
    "weighted_unnormalised": lambda ballot: sum(_weight(c, False) for c in ballot.candidates),
}


def vote(candidates: Sequence[Any], rule: str = "distinct") -> Vote:
    """The answer of several candidates.

    Candidates whose answer is None abstain. Ties go to the answer with more candidates, then to
    the higher summed log-probability where there is one, then to the one seen first.

    Args:
        candidates: objects with ``answer`` (canonical text or None) and ``reasoning``; for the
            weighted rules also ``log_probability`` and ``token_ids``, as Candidate has them.

    Raises:
        UserError: for a rule that is not in VOTES.
    """
    if rule not in VOTES:
        raise UserError(
            f"vote: unknown rule {rule!r}{nearest(rule, VOTES)}; known: {', '.join(VOTES)}"
        )
    ballots: dict[str, Ballot] = {}
    for candidate in candidates:
        if candidate.answer is not None:
            ballots.setdefault(candidate.answer, Ballot()).candidates.append(candidate)
    voted = sum(len(ballot.candidates) for ballot in ballots.values())
    abstained = len(candidates) - voted
    if not ballots:
        return Vote(None, 0.0, {}, rule, (), abstained)
    counts = {answer: VOTES[rule](ballot) for answer, ballot in ballots.items()}
    highest = max(counts.values())
    tied = tuple(answer for answer, count in counts.items() if count == highest)
    winner = max(tied, key=lambda a: (len(ballots[a].candidates), ballots[a].log_probability))
    total = sum(counts.values())
    repeats = voted - sum(len(ballot.reasonings) for ballot in ballots.values())
    share = highest / total if total else 0.0
    return Vote(winner, share, counts, rule, tied, abstained, repeats)


class SelfConsistency(ChainOfThought):
    """Chain of thought with many sampled candidates; 40 paths at 0.7 and top-k 40 in the paper."""

    name: ClassVar[str] = "self_consistency"
    candidates: int = Field(20, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_k: int = Field(40, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    vote: str = "distinct"

    @field_validator("vote")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in VOTES:
            raise ValueError(f"unknown rule {rule!r}{nearest(rule, VOTES)}")
        return rule

    def adapt(self, model: PretrainedDecoder, task: Task, *, seed: int) -> Prompt:
        """Chain of thought's prompt with the same demonstrations, sampled and voted."""
        prompt = super().adapt(model, task, seed=seed)
        decoding = replace(
            prompt.decoding,
            candidates=self.candidates,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        return replace(prompt, decoding=decoding, vote=self.vote)
