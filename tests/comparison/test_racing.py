"""Races: who leaves and when, what is asked, and that they beat equal shares."""

import random

import pytest

from adapt_jax.comparison.racing import MIN_QUESTIONS, plan_race, run_race


def race(tables: list[list[float]], first: int, budget: int, **options):
    """A race of candidates whose answers are known; every answer costs a question."""
    asked: list[tuple[int, int]] = []

    def ask(candidate: int, start: int, end: int):
        asked.extend((candidate, at) for at in range(start, end))
        return tables[candidate][start:end], end - start

    found = run_race(len(tables), len(tables[0]), first, budget, ask, **options)
    assert found.asked == len(asked) == len(set(asked)) <= budget
    return found


def test_the_worse_half_leaves_and_the_others_answer_twice_as_many():
    rates = [0.2, 0.9, 0.5, 0.4]
    tables = [[float(at % 10 < 10 * rate) for at in range(40)] for rate in rates]
    found = race(tables, 10, 1000, alpha=1e-9)
    assert found.winner == 1 and found.rounds == 2
    answered = [len(found.scores[one]) for one in range(4)]
    assert answered == [10, 20, 20, 10]
    assert found.left_because == {
        0: "round 1: in the worse half",
        3: "round 1: in the worse half",
        2: "round 2: in the worse half",
    }


def test_a_clear_case_ends_at_once():
    tables = [[1.0] * 100, *[[0.0] * 100] * 7]
    found = race(tables, 12, 10_000)
    assert found.rounds == 1 and found.asked == 96
    assert found.left_because[3] == "round 1: worse, p = 0.000488"  # 2 / 2^12
    slower = race(tables, 12, 10_000, alpha=1e-4)
    assert slower.rounds == 2 and slower.winner == 0


def test_of_equals_the_first_wins():
    tables = [[1.0, 0.0] * 20] * 5
    found = race(tables, 8, 400)
    assert found.winner == 0 and found.mean(0) == 0.5


def test_no_more_than_the_budget_is_asked():
    tables = [[float(n % (c + 2) > 0) for n in range(50)] for c in range(6)]
    for budget in (0, 1, 5, 6, 20, 61, 299):
        assert race(tables, 5, budget).asked <= budget
    assert race(tables, 50, 10_000).asked == 300  # all have answered everything


@pytest.mark.parametrize("budget", [40, 100, 333, 2000, 10_000])
def test_a_plan_fits_its_budget(budget: int):
    for candidates in (2, 3, 16, 50):
        count, first = plan_race(candidates, 200, budget)
        assert 1 <= count <= candidates and (count == 1 or first >= MIN_QUESTIONS)
        if count > 1:
            tables = [[1.0] * 200] * count
            found = race(tables, first, budget)
            assert found.asked <= budget and found.rounds >= 1
            left = (count + 1) // 2  # all rounds but the last one could be paid
            assert len(found.scores) == count and left >= 1


def test_a_race_finds_better_candidates_than_equal_shares_and_than_fewer_candidates():
    """400 races of 16 candidates with 320 questions, against 20 for each, and 160 for two."""
    rng, gained = random.Random(0), {"race": 0.0, "equal shares": 0.0, "two candidates": 0.0}
    for _ in range(400):
        rates = [rng.uniform(0.3, 0.8) for _ in range(16)]
        hard = [rng.random() for _ in range(200)]  # some questions are harder for all
        tables = [[float((one + rng.random()) / 2 < rate) for one in hard] for rate in rates]
        equal = max(range(16), key=lambda one: sum(tables[one][:20]))
        two = max(range(2), key=lambda one: sum(tables[one][:160]))
        count, first = plan_race(16, 200, 320)
        found = race(tables[:count], first, 320)
        winners = {"race": found.winner, "equal shares": equal, "two candidates": two}
        for name, winner in winners.items():
            gained[name] += (rates[winner] - sum(rates) / 16) / 400
    assert gained["race"] > gained["equal shares"] + 0.005
    assert gained["race"] > gained["two candidates"] + 0.05
