"""Texts that begin alike are read once, and every text is still predicted from itself alone."""

import numpy as np
import pytest

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.sampling.likelihood import log_likelihood
from adapt_jax.sampling.shared_contexts import (
    MAX_ROW_LENGTH,
    Pair,
    _share_rows,
    group_contexts,
    plan_small_batches,
    score_pairs,
)


def draw(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 300, count).tolist())


def test_contexts_behind_the_same_demonstrations_form_a_group():
    shots, others = draw(300, 1), draw(400, 2)
    contexts = [shots + draw(20, n) for n in range(10, 15)]
    contexts += [others + draw(9, n) for n in range(30, 34)] + [draw(25, 99)]
    groups = sorted(group_contexts(contexts), key=lambda group: min(group.members))
    assert [(length, sorted(members)) for length, members in groups] == [
        (300, [0, 1, 2, 3, 4]),
        (400, [5, 6, 7, 8]),
        (0, [9]),
    ]


def test_a_prefix_that_saves_less_than_it_costs_is_not_encoded():
    contexts = [draw(30, 1) + draw(20, n) for n in range(3, 6)]
    assert group_contexts(contexts) == [(0, pytest.approx([0, 1, 2], abs=2))]
    [(length, members)] = group_contexts(contexts, group_cost=10)
    assert (length, sorted(members)) == (30, [0, 1, 2])


def test_a_nested_prefix_is_taken_where_it_saves_more():
    description, shots = draw(50, 1), [draw(500, 2), draw(500, 3)]
    contexts = [description + part + draw(9, n) for n in range(5) for part in shots]
    assert sorted(length for length, _ in group_contexts(contexts)) == [550, 550]
    contexts = [description + draw(9, n) for n in range(5)]
    assert [length for length, _ in group_contexts(contexts)] == [50]


def test_a_context_keeps_a_token_of_its_own():
    contexts = [draw(200, 1)[:count] for count in (150, 200, 199, 151)]
    assert group_contexts(contexts, group_cost=0)[0].length == 149
    assert group_contexts([]) == []
    assert group_contexts([(7,)], min_prefix=0) == [(0, [0])]


@pytest.mark.parametrize("seed", range(20))
def test_rows_hold_every_text_once_and_score_its_continuation_alone(seed):
    draws = np.random.default_rng(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draws.integers(0, 2, draws.integers(1, most)).tolist())

    prefix = tokens(5)
    pairs = list({Pair(prefix + tokens(40), tokens(8)) for _ in range(60)})
    members = []
    for row, here in _share_rows(pairs, len(prefix)):
        assert row.context and row.length <= MAX_ROW_LENGTH
        for member, one, skip in zip(here, row.continuations, row.unscored, strict=True):
            assert (*prefix, *row.context, *one) == (*pairs[member].context, *pairs[member][1])
            assert one[skip:] == pairs[member].continuation
        members += here
    assert sorted(members) == list(range(len(pairs)))


def test_choices_of_a_question_share_a_row_and_other_questions_do_not():
    questions = [draw(60, 1), draw(60, 2)]
    pairs = [Pair(question, draw(4, n)) for question in questions for n in range(3, 6)]
    rows = list(_share_rows(pairs, 0))
    assert sorted(sorted(members) for _, members in rows) == [[0, 1, 2], [3, 4, 5]]
    # contexts that differ in their last words only, as in Winogrande
    pairs = [Pair(draw(60, 1) + draw(2, n), draw(4, 9)) for n in (3, 4)]
    [(row, _)] = _share_rows(pairs, 0)
    assert row.context == draw(60, 1) and row.unscored == (2, 2)


def test_batches_hold_every_row_once_and_have_few_shapes():
    rows = [row for n in range(200) for row, _ in _share_rows([Pair(draw(n + 1), (5, 6))], 0)]
    batches = list(plan_small_batches(rows, 1))
    assert sorted(number for batch in batches for number in batch.rows) == list(range(200))
    for batch in batches:
        longest = max(rows[number].length for number in batch.rows)
        assert longest <= batch.length <= max(16, longest * 5 / 4 + 16)
        assert len(batch.rows) <= batch.num_rows
    assert len({batch.length for batch in batches}) <= 12
    assert all(batch.num_rows % 3 == 0 for batch in plan_small_batches(rows, 3))


def test_likelihoods_are_those_of_each_text_alone(tiny):
    shots = draw(150, 1)
    pairs = [Pair(shots + draw(6, n), draw(3, m)) for n in (2, 3, 4) for m in (5, 6)]
    pairs += [Pair(draw(9, 7), draw(12, 8)), pairs[0], Pair(shots[:5], shots[5:9])]
    found = dict(score_pairs(tiny, pairs, lambda tokens: Prefix((tokens,))))
    for index, pair in enumerate(pairs):
        alone = log_likelihood(tiny, pair.context, pair.continuation)
        assert found[index].log_probability == pytest.approx(alone.log_probability, abs=2e-5)
        assert found[index].is_greedy == alone.is_greedy
