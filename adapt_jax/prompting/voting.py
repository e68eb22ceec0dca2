"""From many candidates to one answer: the votes, when enough have voted, and what fewer would say.

The vote of this project counts **distinct** reasonings: a repeat of the same reasoning for the
same answer is ignored. Two reasonings are the same when they are equal after white space is folded
and letters are lowered. The majority of the self-consistency paper counts every sample.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import comb, exp
from typing import Any

from adapt_jax.utils.errors import UserError, nearest

SUBSETS = 1000  # drawn for the curves of the weighted votes, which have no closed form
Ways = dict[tuple[int, int], int]  # (candidates chosen, count reached) -> in how many ways


@dataclass(frozen=True)
class Vote:
    """What the candidates of one question decided.

    Attributes:
        answer: the winner; None where every candidate abstained.
        confidence: the winner's share of all that was counted (agreement), 0 to 1.
        counts: what each answer got under the rule, in the order of their first candidates.
        tied: the answers with the highest count, before the tie was broken.
        abstained, repeats: candidates without an answer, and with a reasoning seen before.
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
    """All candidates of one answer."""

    candidates: list[Any] = field(default_factory=list)

    @property
    def reasonings(self) -> Counter[str]:
        """The distinct ones, and how often each occurs."""
        return Counter(map(same_reasoning, self.candidates))

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


# What an answer counts. Normalised weights are per token (the geometric mean of its probabilities).
VOTES: dict[str, Callable[[AnswerGroup], float]] = {
    "distinct": lambda ballot: len(ballot.reasonings),
    "majority": lambda ballot: len(ballot.candidates),
    "weighted": lambda ballot: sum(_weight(c, True) for c in ballot.candidates),
    "weighted_unnormalised": lambda ballot: sum(_weight(c, False) for c in ballot.candidates),
}


def check_rule(rule: str) -> None:
    """Raises UserError for a rule that is not in VOTES."""
    if rule not in VOTES:
        raise UserError(
            f"vote: unknown rule {rule!r}{nearest(rule, VOTES)}; known: {', '.join(VOTES)}"
        )


def group_by_answer(candidates: Iterable[Any]) -> dict[str, AnswerGroup]:
    """The candidates by their answers, in the order of the first of each; None abstains."""
    ballots: dict[str, AnswerGroup] = {}
    for candidate in candidates:
        if candidate.answer is not None:
            ballots.setdefault(candidate.answer, AnswerGroup()).candidates.append(candidate)
    return ballots


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
    check_rule(rule)
    ballots = group_by_answer(candidates)
    voted = sum(len(ballot.candidates) for ballot in ballots.values())
    abstained = len(candidates) - voted
    if not ballots:
        return Vote(None, 0.0, {}, rule, (), abstained)
    counts = {answer: VOTES[rule](ballot) for answer, ballot in ballots.items()}
    highest = max(counts.values())
    tied_answers = tuple(answer for answer, count in counts.items() if count == highest)
    winner = max(
        tied_answers, key=lambda a: (len(ballots[a].candidates), ballots[a].log_probability)
    )
    total = sum(counts.values())
    repeats = voted - sum(len(ballot.reasonings) for ballot in ballots.values())
    share = highest / total if total else 0.0
    return Vote(winner, share, counts, rule, tied_answers, abstained, repeats)


def probability_leader_wins(leader: int, runner_up: int) -> float:
    """P(the leading answer beats the runner-up), by their samples so far, from a Beta(1, 1) prior.

    The tail of the posterior Beta(leader + 1, runner_up + 1) above one half (Adaptive-Consistency,
    2305.11860, section 3): at 0.95, 3-0 goes on, 4-0 stops, 6-1 stops.
    """
    total = leader + runner_up + 1
    return sum(comb(total, k) for k in range(leader + 1)) / 2**total


def should_stop(candidates: Sequence[Any], stop_at: float, rule: str = "distinct") -> bool:
    """Whether these samples decide the vote, so that no more need be drawn.

    They do when the leader of all samples beats the runner-up with probability ``stop_at``, and
    the majority, the distinct vote and ``rule`` have the same winner.
    """
    counts = sorted((len(b.candidates) for b in group_by_answer(candidates).values()), reverse=True)
    if not counts or probability_leader_wins(counts[0], sum(counts[1:2])) < stop_at:
        return False
    return len({vote(candidates, name).answer for name in ("majority", "distinct", rule)}) == 1


def needed(candidates: Sequence[Any], stop_at: float, rule: str = "distinct") -> int:
    """How many candidates, in the order of their index, adaptive self-consistency would have drawn.

    All of them where they never settle.
    """
    numbers = range(1, len(candidates))
    return next((n for n in numbers if should_stop(candidates[:n], stop_at, rule)), len(candidates))


class AdaptiveVote:
    """The candidates of one question as they come, in whatever order.

    Only the candidates 0 to n - 1 count, for the smallest n that decides the question, even if
    later ones were written before: the outcome depends on no order and on no neighbour.
    """

    def __init__(self, most: int, stop_at: float | None = None, rule: str = "distinct"):
        """``most`` candidates at most; without ``stop_at`` all of them are waited for."""
        self.most, self.stop_at, self.rule = most, stop_at, rule
        self.came: dict[int, Any] = {}
        self.counted, self.decided = 0, False

    def add(self, number: int, candidate: Any) -> bool:
        """Takes a candidate; returns whether the question is decided now, and was not before."""
        if self.decided:
            return False
        self.came[number] = candidate
        while self.counted in self.came and not self.decided:
            self.counted += 1
            self.decided = self.counted == self.most or (
                self.stop_at is not None and should_stop(self.candidates, self.stop_at, self.rule)
            )
        return self.decided

    @property
    def candidates(self) -> tuple[Any, ...]:
        """Those that count, in the order of their index."""
        return tuple(self.came[number] for number in range(self.counted))


def maj_at_k(
    candidates: Sequence[Any],
    right: Collection[str],
    k: Iterable[int] | None = None,
    rule: str = "majority",
    *,
    seed: int = 0,
) -> dict[int, float]:
    """The share of votes of k candidates that come out right, over all subsets of these n.

    Unlike the vote of the first k it has no luck of the draw in it, and unlike resampling it is
    without bias. ``majority`` and ``distinct`` are exact, in closed form, a tie giving each of the
    tied answers its share; the weighted rules are an average over 1,000 seeded subsets.

    Args:
        candidates: as ``vote`` takes them, drawn independently (not stopped early).
        right: the answers, in canonical form, that are right.
        k: sizes from 1 to n; when not given 1, 2, 4, ... and n.

    Raises:
        UserError: without candidates, for a k out of range, or an unknown rule.
    """
    check_rule(rule)
    n = len(candidates)
    sizes = sorted({n, *(2**i for i in range(n.bit_length()))} if k is None else set(k))
    if not candidates or sizes and not 1 <= sizes[0] <= sizes[-1] <= n:
        raise UserError(f"maj_at_k: k {sizes}; expected 1 to {n}, the number of candidates")
    right = {right} if isinstance(right, str) else set(right)
    if rule not in ("majority", "distinct"):
        return {size: _drawn(candidates, right, size, rule, seed) for size in sizes}
    ballots = group_by_answer(candidates)
    ways = {
        answer: _ways(b.reasonings.values() if rule == "distinct" else [1] * len(b.candidates))
        for answer, b in ballots.items()
    }
    silent = n - sum(len(ballot.candidates) for ballot in ballots.values())
    share = dict.fromkeys(sizes, 0.0)
    for answer in right & ballots.keys():
        others = [ways[other] for other in ballots if other != answer]
        for size, part in _leading(ways[answer], others, silent, sizes).items():
            share[size] += part / comb(n, size)
    return share


def _drawn(candidates: Sequence[Any], right: set[str], size: int, rule: str, seed: int) -> float:
    rng = random.Random(f"maj_at_k/{seed}/{size}")
    subsets = (
        [candidates[i] for i in sorted(rng.sample(range(len(candidates)), size))]
        for _ in range(SUBSETS)
    )
    return sum(vote(subset, rule).answer in right for subset in subsets) / SUBSETS


def _ways(groups: Iterable[int]) -> Ways:
    """How an answer can come to a count: groups are equal reasonings, each of which counts once."""
    ways: Ways = {(0, 0): 1}
    for size in groups:
        grown: Ways = defaultdict(int)
        for (chosen, count), number in ways.items():
            grown[chosen, count] += number
            for more in range(1, size + 1):
                grown[chosen + more, count + 1] += number * comb(size, more)
        ways = grown
    return ways


def _leading(own: Ways, others: list[Ways], silent: int, sizes: Sequence[int]) -> dict[int, float]:
    """Subsets of each size in which an answer leads; where it is tied, a share of the subset.

    Args:
        silent: how many candidates abstain.
    """
    total = dict.fromkeys(sizes, 0.0)
    for height in {count for _, count in own if count}:
        below: Ways = {(0, 0): 1}  # (candidates chosen, others at the same height)
        for other in others:
            grown: Ways = defaultdict(int)
            for (chosen, tied_answers), number in below.items():
                for (more, count), ways in other.items():
                    if count <= height:
                        grown[chosen + more, tied_answers + (count == height)] += number * ways
            below = grown
        for (mine, count), ways in own.items():
            if count != height:
                continue
            for (chosen, tied_answers), number in below.items():
                for size in sizes:
                    rest = size - mine - chosen
                    if 0 <= rest <= silent:
                        total[size] += ways * number * comb(silent, rest) / (tied_answers + 1)
    return total
