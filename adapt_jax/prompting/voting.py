"""From many candidates to one answer: the votes, and when a vote is decided early.

By default the vote counts **distinct** reasonings: a repeat of the same reasoning for the same
answer is ignored. Two reasonings are the same when they are equal after white space is folded and
letters are lowered. The majority of the self-consistency paper (2203.11171) counts every sample.

Distinct reasonings win where a right answer is reached in many ways. Where right reasonings repeat
and wrong ones vary, they lose to the majority. ``choose_vote_rule`` finds out on a development
split. A further rule is one decorated function:

    @VOTES.register("longest")
    def count_words(group: AnswerGroup) -> float:
        return max(len(one.reasoning.split()) for one in group.candidates)

Long answers, such as summaries, differ from candidate to candidate and cannot be counted. The rules
``mbr_SCORE`` choose the one that is most similar to all others (minimum Bayes risk).
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from adapt_jax.tasks.answers.text_scores import TEXT_SCORES, find_library_version
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry

__all__ = [
    "AUTO_RULES",
    "VOTES",
    "AdaptiveVote",
    "AnswerGroup",
    "JointVote",
    "MinimumBayesRisk",
    "Vote",
    "VoteChoice",
    "choose_vote_rule",
    "count_answers",
    "group_by_answer",
    "normalize_reasoning",
    "probability_leader_wins",
    "should_stop",
    "vote",
]

AUTO_RULES = ("distinct", "majority", "weighted")  # what choose_vote_rule chooses among


@dataclass(frozen=True)
class Vote:
    """The result of a vote among the candidates of one question.

    Attributes:
        answer: the winner; None if every candidate abstained.
        confidence: the winner's share of all that was counted, 0 to 1.
        counts: what each answer got under the rule, in the order of their first candidates.
        tied_answers: the answers with the highest count, before the tie was broken.
        abstained: candidates without an answer.
        repeats: candidates whose reasoning an earlier one with the same answer has too.
    """

    answer: str | None
    confidence: float
    counts: dict[str, float]
    rule: str
    tied_answers: tuple[str, ...] = ()
    abstained: int = 0
    repeats: int = 0


@dataclass
class AnswerGroup:
    """All candidates that gave the same answer."""

    candidates: list[Any] = field(default_factory=list)

    @property
    def reasonings(self) -> Counter[str]:
        """The distinct reasonings, and how often each occurs."""
        return Counter(map(normalize_reasoning, self.candidates))

    @property
    def log_probability(self) -> float:
        """Summed over the candidates that have one; the order of the terms does not matter."""
        return math.fsum(map(get_log_probability, self.candidates))


class JointVote(ABC):
    """A rule by which the count of an answer depends on the candidates of all answers."""

    version: Any = 1

    @abstractmethod
    def count(self, groups: Mapping[str, AnswerGroup]) -> dict[str, float]:
        """What each answer counts."""


# name -> what an answer counts
VOTES: Registry[Callable[[AnswerGroup], float] | JointVote] = Registry("vote")


@VOTES.register("distinct")
def _count_reasonings(group: AnswerGroup) -> float:
    return len(group.reasonings)


@VOTES.register("majority")
def _count_candidates(group: AnswerGroup) -> float:
    return len(group.candidates)


@VOTES.register("weighted")
def _sum_mean_probabilities(group: AnswerGroup) -> float:
    """Per token: the geometric mean of a candidate's token probabilities (2203.11171, table 1)."""
    return math.fsum(_compute_probability(one, per_token=True) for one in group.candidates)


@VOTES.register("weighted_unnormalised")
def _sum_probabilities(group: AnswerGroup) -> float:
    return math.fsum(_compute_probability(one, per_token=False) for one in group.candidates)


class MinimumBayesRisk(JointVote):
    """The answer that is most similar to the answers of all candidates, as far as they were read.

    An answer counts the mean of its scores with each candidate's answer as the reference, its own
    included (Eikema and Aziz, 2108.04718, equation 5: the sampled candidates are both the
    hypotheses and the references).
    """

    def __init__(self, score: str) -> None:
        """``score``: a name in tasks.text_scores.TEXT_SCORES."""
        self.score = score

    @property
    def version(self) -> str:  # type: ignore[override]
        """The version of the library that the score rests on."""
        return f"1, {find_library_version(self.score)}"

    def count(self, groups: Mapping[str, AnswerGroup]) -> dict[str, float]:
        """The expected score of each answer."""
        weights = {answer: len(group.candidates) for answer, group in groups.items()}
        total = sum(weights.values())
        return {
            answer: math.fsum(
                weight * _score_pair(self.score, answer, other) for other, weight in weights.items()
            )
            / total
            for answer in groups
        }


@lru_cache(maxsize=65536)
def _score_pair(score: str, text: str, reference: str) -> float:
    return TEXT_SCORES[score](text, [reference])


for _name in TEXT_SCORES:
    VOTES.register(f"mbr_{_name}")(MinimumBayesRisk(_name))


def count_answers(groups: Mapping[str, AnswerGroup], rule: str) -> dict[str, float]:
    """What each answer counts under a rule.

    Raises:
        UserError: there is no such rule, or a library that it needs is not installed.
    """
    count = VOTES.find(rule)
    if isinstance(count, JointVote):
        return count.count(groups)
    return {answer: count(group) for answer, group in groups.items()}


def _compute_probability(candidate: Any, per_token: bool) -> float:
    """The decoder's own probability of a text (2203.11171, section 2, equation 1)."""
    total = getattr(candidate, "log_probability", None)
    if total is None:
        raise UserError("a weighted vote needs candidates with a log_probability")
    tokens = len(getattr(candidate, "token_ids", ())) or 1
    return math.exp(total / tokens if per_token else total)


def get_log_probability(candidate: Any) -> float:
    """The candidate's log-probability; 0 if it has none."""
    return getattr(candidate, "log_probability", None) or 0.0


def normalize_reasoning(candidate: Any) -> str:
    """A text that is equal for two candidates with the same reasoning."""
    return " ".join((getattr(candidate, "reasoning", "") or "").lower().split())


def group_by_answer(candidates: Iterable[Any]) -> dict[str, AnswerGroup]:
    """The candidates by answer, in the order of each answer's first candidate.

    A candidate whose answer is None abstains and is in no group.
    """
    groups: dict[str, AnswerGroup] = {}
    for candidate in candidates:
        if candidate.answer is not None:
            groups.setdefault(candidate.answer, AnswerGroup()).candidates.append(candidate)
    return groups


def vote(candidates: Sequence[Any], rule: str = "distinct") -> Vote:
    """The answer of several candidates.

    A tie goes to the answer with more candidates, then to the higher summed log-probability, then
    to the answer that was given first.

    Args:
        candidates: objects with ``answer`` (canonical text, or None) and ``reasoning``; for the
            weighted rules also ``log_probability`` and ``token_ids``, as Candidate has them.
        rule: a name in VOTES.

    Raises:
        UserError: there is no such rule, or a weighted rule gets no log-probabilities.
    """
    VOTES.find(rule)
    groups = group_by_answer(candidates)
    voted = sum(len(group.candidates) for group in groups.values())
    abstained = len(candidates) - voted
    if not groups:
        return Vote(None, 0.0, {}, rule, (), abstained)
    counts = count_answers(groups, rule)
    highest = max(counts.values())
    tied_answers = tuple(answer for answer, each in counts.items() if each == highest)
    # max takes the first of equals: the answer that was given first
    winner = max(
        tied_answers,
        key=lambda answer: (len(groups[answer].candidates), groups[answer].log_probability),
    )
    total = sum(counts.values())
    repeats = voted - sum(len(group.reasonings) for group in groups.values())
    confidence = highest / total if total else 0.0
    return Vote(winner, confidence, counts, rule, tied_answers, abstained, repeats)


@dataclass(frozen=True)
class VoteChoice:
    """The rule with the best answers, and the accuracy (mean score) of each rule, 0 to 1."""

    rule: str
    accuracy: dict[str, float]


def choose_vote_rule(
    questions: Iterable[tuple[Sequence[Any], Collection[str] | Mapping[str, float]]],
    rules: Sequence[str] = AUTO_RULES,
) -> VoteChoice:
    """The rule of highest accuracy on a development split; of equals, the first in ``rules``.

    Args:
        questions: for each question of the development split all its candidates, none left out by
            early stopping, and the answers (canonical) that are right, or the score of each.
        rules: names in VOTES.

    Raises:
        UserError: there is no question, or no rule, or an unknown one.
    """
    questions = list(questions)
    if not questions or not rules:
        raise UserError("vote auto: needs questions of the development split, and rules")

    def score(answer: str | None, answers: Collection[str] | Mapping[str, float]) -> float:
        if isinstance(answers, Mapping):
            return 0.0 if answer is None else answers.get(answer, 0.0)
        return float(answer in answers)

    totals = {
        rule: math.fsum(score(vote(drawn, rule).answer, right) for drawn, right in questions)
        for rule in rules
    }
    accuracy = {rule: total / len(questions) for rule, total in totals.items()}
    return VoteChoice(max(rules, key=totals.__getitem__), accuracy)


def probability_leader_wins(leader: int, runner_up: int) -> float:
    """P(the leading answer beats the runner-up), from their counts so far and a Beta(1, 1) prior.

    The share of the posterior Beta(leader + 1, runner_up + 1) above one half (Adaptive-Consistency,
    2305.11860, section 3): at 0.95, 3-0 continues, 4-0 stops, 6-1 stops.
    """
    from scipy.special import betainc  # takes a moment to import

    return float(betainc(runner_up + 1, leader + 1, 0.5))


def should_stop(candidates: Sequence[Any], stop_at: float, rule: str = "distinct") -> bool:
    """Whether these candidates decide the vote, so that no more need be drawn.

    They do when the leader by raw count beats the runner-up with probability ``stop_at``, and the
    majority, the distinct vote and ``rule`` have the same winner.
    """
    groups = group_by_answer(candidates).values()
    counts = sorted((len(group.candidates) for group in groups), reverse=True)
    if not counts or probability_leader_wins(counts[0], sum(counts[1:2])) < stop_at:
        return False
    return len({vote(candidates, name).answer for name in ("majority", "distinct", rule)}) == 1


class AdaptiveVote:
    """The candidates of one question as they arrive, in any order.

    Only candidates 0 to n - 1 count, for the smallest n that decides the question, even if later
    ones were generated before. So the outcome depends neither on the order of arrival nor on the
    other questions.

    Attributes:
        candidates: those that count, in the order of their number.
        is_decided: whether no more candidates are needed.
    """

    def __init__(
        self, max_candidates: int, stop_at: float | None = None, rule: str = "distinct"
    ) -> None:
        """``stop_at`` is the probability of ``should_stop``; None waits for all candidates."""
        self.max_candidates, self.stop_at, self.rule = max_candidates, stop_at, rule
        self.candidates: tuple[Any, ...] = ()
        self.is_decided = False
        self._arrived: dict[int, Any] = {}

    def add(self, number: int, candidate: Any) -> bool:
        """Takes candidate ``number``; returns whether it decides the question."""
        if self.is_decided:
            return False
        self._arrived[number] = candidate
        while not self.is_decided and len(self.candidates) in self._arrived:
            self.candidates += (self._arrived[len(self.candidates)],)
            self.is_decided = len(self.candidates) == self.max_candidates or (
                self.stop_at is not None and should_stop(self.candidates, self.stop_at, self.rule)
            )
        return self.is_decided
