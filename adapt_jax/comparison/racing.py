"""A race between prompts: successive halving, with a paired test that ends clear cases earlier.

All prompts answer the same questions in the same order. After each round the worse half leaves, and
so does whatever is significantly worse than the leader. Those that stay answer twice as many
questions. Successive halving: Jamieson and Talwalkar 2016 (1502.07943). Races with paired tests:
Maron and Moore 1994, Birattari 2002.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adapt_jax.evaluation.significance import mcnemar

__all__ = ["MIN_QUESTIONS", "Race", "plan_race", "run_race"]

MIN_QUESTIONS = 5  # of a first round, so that the first half does not leave by chance alone

# (candidate, first question, one past the last) -> the score of each answer, and how many questions
# had to be asked for it
Ask = Callable[[int, int, int], tuple[list[float], int]]


@dataclass
class Race:
    """What a race found.

    Attributes:
        winner: the candidate with the highest mean score of those that were left.
        scores: by candidate, of the questions that it answered.
        left_because: by candidate that left, why.
        asked: questions that were asked, over all candidates.
        rounds: how many there were.
    """

    winner: int = 0
    scores: dict[int, list[float]] = field(default_factory=dict)
    left_because: dict[int, str] = field(default_factory=dict)
    asked: int = 0
    rounds: int = 0

    def mean(self, candidate: int) -> float:
        """The mean score of a candidate; 0 where it answered nothing."""
        scores = self.scores.get(candidate, [])
        return sum(scores) / len(scores) if scores else 0.0


def plan_race(num_candidates: int, num_questions: int, budget: int) -> tuple[int, int]:
    """How many candidates a budget is enough for, and the questions of their first round.

    Each round but the first has half as many candidates and as many new questions as all before
    it, so it costs half as much as the first one.

    Args:
        budget: questions that may be asked, over all candidates.
    """
    least = min(MIN_QUESTIONS, num_questions)
    for count in range(num_candidates, 1, -1):
        rounds = math.ceil(math.log2(count))
        first = int(budget / (count * (1 + (rounds - 1) / 2)))
        if first >= least:
            return count, min(first, num_questions)
    return 1, min(budget, num_questions)


def run_race(
    num_candidates: int,
    num_questions: int,
    first_round: int,
    budget: int,
    ask: Ask,
    *,
    alpha: float = 0.05,
    on_round: Callable[[int, Sequence[int], int], None] | None = None,
) -> Race:
    """Races candidates against each other until one is left, or questions or budget are spent.

    Args:
        first_round: questions that each candidate answers in the first round.
        budget: questions that may be asked, over all candidates.
        alpha: level of the paired test against the leader.
        on_round: called with the number of a round, its candidates and how many questions each
            answers, before it begins.
    """
    race = Race()
    racing, answered, end = list(range(num_candidates)), 0, first_round
    while racing:
        # 1. all answer the same next questions, as many as the budget holds
        end = min(end, num_questions, answered + (budget - race.asked) // len(racing))
        if end <= answered:
            break
        race.rounds += 1
        if on_round is not None:
            on_round(race.rounds, racing, end - answered)
        for candidate in racing:
            scores, asked = ask(candidate, answered, end)
            race.scores.setdefault(candidate, []).extend(scores)
            race.asked += asked
        answered, end = end, 2 * end

        # 2. the best first; of equals the one that came first
        racing.sort(key=lambda candidate: (-race.mean(candidate), candidate))
        race.winner = racing[0]

        # 3. what is significantly worse than the leader leaves, and the worse half
        p_values = {one: _test(race.scores[racing[0]], race.scores[one]) for one in racing[1:]}
        clear = [one for one, p_value in p_values.items() if p_value < alpha]
        for one in clear:
            race.left_because[one] = f"round {race.rounds}: worse, p = {p_values[one]:.3g}"
        if answered == num_questions:
            break
        kept = [one for one in racing[: math.ceil(len(racing) / 2)] if one not in clear]
        for one in racing:
            if one not in kept and one not in clear:
                race.left_because[one] = f"round {race.rounds}: in the worse half"
        racing = sorted(kept)
        if len(racing) == 1:
            break
    return race


def _test(leader: Sequence[float], other: Sequence[float]) -> float:
    """The exact two-sided p-value of a sign test over the pairs; of verdicts, McNemar's test."""
    pairs = list(zip(leader, other, strict=True))
    return mcnemar(sum(a > b for a, b in pairs), sum(b > a for a, b in pairs))
