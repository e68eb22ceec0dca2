"""Packing: every token of every example arrives once, and segments know nothing of each other."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.training.batches import Batches, round_to_bucket
from adapt_jax.training.config import TrainingConfig, choose_num_microbatches
from adapt_jax.training.packing import BatchShape, TrainingExample, best_fit, pack
from adapt_jax.utils.errors import UserError


@st.composite
def examples(draw: st.DrawFn) -> list[TrainingExample]:
    lengths = draw(st.lists(st.integers(1, 24), min_size=1, max_size=20))
    made, next_token = [], 1
    for number, length in enumerate(lengths):
        start = draw(st.integers(0, length))
        tokens = tuple(range(next_token, next_token + length))  # all different: none can hide
        made.append(TrainingExample(str(number), tokens, start))
        next_token += length
    return made


@settings(deadline=None)
@given(examples(), st.integers(24, 60))
def test_packing_loses_nothing_and_positions_restart(made, row_length):
    rows = len(best_fit([len(example.tokens) for example in made], row_length))
    targets = sum(example.num_targets for example in made)
    batch, left_over = pack(made, BatchShape(rows, row_length, targets))
    assert left_over == []
    found = {}
    for tokens, positions, segments in zip(
        batch.tokens, batch.positions, batch.segments, strict=True
    ):
        for segment in range(1, segments.max() + 1):
            inside = segments == segment
            assert list(positions[inside]) == list(range(inside.sum()))
            assert np.ptp(np.flatnonzero(inside)) == inside.sum() - 1
            found[tokens[inside][0]] = tuple(int(token) for token in tokens[inside])
        assert not tokens[segments == 0].any()
    assert sorted(found.values()) == sorted(example.tokens for example in made)


@settings(deadline=None)
@given(examples(), st.integers(24, 60))
def test_each_target_is_predicted_from_the_token_before_it_in_its_own_segment(made, row_length):
    rows = len(best_fit([len(example.tokens) for example in made], row_length))
    targets = sum(example.num_targets for example in made)
    batch, _ = pack(made, BatchShape(rows, row_length, targets + 5))
    real = batch.target_weight > 0
    pairs = zip(
        batch.tokens.reshape(-1)[batch.target_index[real]], batch.target_id[real], strict=True
    )
    expected = [
        (example.tokens[at - 1], example.tokens[at])
        for example in made
        for at in range(max(example.target_start, 1), len(example.tokens))
    ]
    assert sorted((int(a), int(b)) for a, b in pairs) == sorted(expected)
    assert real.sum() == targets


def test_what_does_not_fit_is_left_over_and_counted():
    made = [TrainingExample(str(i), (i,) * 8, 4) for i in range(1, 5)]
    batch, left_over = pack(made, BatchShape(rows=1, row_length=16, targets=100))
    assert len(left_over) == 2 and (batch.segments > 0).sum() == 16
    batch, left_over = pack(made, BatchShape(rows=2, row_length=16, targets=9))
    assert len(left_over) == 2 and batch.target_weight.sum() == 8


def test_every_epoch_holds_every_example_and_the_seed_decides_the_order():
    made = [TrainingExample(str(i), (i, i, i), 1) for i in range(1, 9)]

    def seen(seed, steps=4):
        batches = Batches(made, 4, steps, seed=seed)
        return [sorted(set(next(batches).tokens.reshape(-1)) - {0}) for _ in range(steps)]

    first = seen(0)
    assert sorted(first[0] + first[1]) == list(range(1, 9)) == sorted(first[2] + first[3])
    assert first == seen(0) and first != seen(1)


def test_a_restored_position_goes_on_with_the_same_batches():
    made = [TrainingExample(str(i), (i,) * (1 + i % 5) + (9,), 1) for i in range(1, 30)]
    batches = Batches(made, 4, 12, seed=3)
    for _ in range(5):
        next(batches)
    state = batches.get_state()
    rest = [next(batches) for _ in range(7)]
    other = Batches(made, 4, 12, seed=3)
    other.set_state(state)
    for batch in rest:
        again = next(other)
        np.testing.assert_array_equal(batch.tokens, again.tokens)
        np.testing.assert_array_equal(batch.target_id, again.target_id)


def test_all_batches_of_a_run_share_one_shape_that_the_devices_divide():
    made = [TrainingExample(str(i), tuple(range(1, 2 + i % 90)) + (7,), 1) for i in range(40)]
    batches = Batches(made, 10, 8, seed=0, row_length=96, row_multiple=4)
    shapes = {next(batches).tokens.shape for _ in range(8)}
    assert len(shapes) == 1 and shapes.pop()[0] % 4 == 0
    assert batches.dropped == 0


def test_unusable_examples_are_refused():
    with pytest.raises(UserError, match="no example to train on"):
        Batches([], 4, 2, seed=0)
    with pytest.raises(UserError, match="no example has a target"):
        Batches([TrainingExample("a", (1, 2), 2)], 1, 1, seed=0)
    with pytest.raises(UserError, match="row_length 4: an example has 6 tokens"):
        Batches([TrainingExample("a", (1,) * 6, 2)], 1, 1, seed=0, row_length=4)


def test_buckets_double_up_to_the_longest_row():
    found = [round_to_bucket(length, 320) for length in (1, 64, 65, 128, 129, 256, 257, 320)]
    assert found == [64, 64, 128, 128, 256, 256, 320, 320]


@pytest.mark.parametrize("parts", [1, 3])
def test_unpacked_every_example_has_a_row_of_the_bucket_of_its_batch(parts):
    lengths = [3 + 7 * (i % 9) if i % 5 else 40 + 3 * i for i in range(60)]
    made = [TrainingExample(str(i), (i + 1,) * length, 2) for i, length in enumerate(lengths)]
    packed = Batches(made, 6, 20, seed=1)
    batches = Batches(made, 6, 20, seed=1, num_microbatches=parts, row_multiple=6, packing="none")
    known = {(s.rows, s.row_length, s.targets) for s in batches.shapes}
    assert 1 < len(known) <= 3  # of 64, 128, 256 tokens
    for step in range(20):
        members = batches.examples_of(step)
        assert [e.id for e in members] == [e.id for e in packed.examples_of(step)]
        batch = next(batches)
        rows, length = batch.tokens.shape[-2:]
        longest = max(len(example.tokens) for example in members)
        targets = batch.target_index.shape[-1]
        assert (rows, length, targets) in known and rows % 6 == targets % 6 == 0
        assert length == round_to_bucket(longest, 256) and batch.segments.max() == 1
        if parts > 1:  # of as many examples each
            assert set((batch.segments > 0).any(axis=-1).sum(axis=-1)) == {2}
        held = {(int(row[0]), int((row > 0).sum())) for row in batch.tokens.reshape(-1, length)}
        assert held - {(0, 0)} == {(int(e.id) + 1, len(e.tokens)) for e in members}
        assert (batch.target_weight > 0).sum() == sum(example.num_targets for example in members)
    assert batches.dropped == 0


def test_the_longest_row_bounds_the_unpacked_ones_too():
    made = [TrainingExample("a", (1,) * 90, 2)]
    assert Batches(made, 1, 1, seed=0, row_length=100, packing="none").shape.row_length == 100
    with pytest.raises(UserError, match="row_length 80: an example has 90 tokens"):
        Batches(made, 1, 1, seed=0, row_length=80, packing="none")


def test_packed_rows_are_as_long_as_leaves_the_least_to_compute():
    made = [TrainingExample(str(i), (1,) * 190, 2) for i in range(30)]
    assert Batches(made, 30, 1, seed=0).shape.row_length == 384  # two in a row; 66 of 256 lost else
    made = [TrainingExample(str(i), (1,) * 254, 2) for i in range(30)]
    assert Batches(made, 30, 1, seed=0).shape.row_length == 256


def test_a_cpus_parts_have_two_thousand_tokens_or_more_and_at_least_a_row():
    def chosen(count, length, **given):
        made = [TrainingExample(str(i), (1,) * length, 2) for i in range(count)]
        batches = Batches(made, count, 2, seed=0, num_microbatches=None, **given)
        assert next(batches).tokens.ndim == (3 if batches.num_microbatches > 1 else 2)
        return batches.num_microbatches

    assert [chosen(count, 100) for count in (10, 40, 41, 82)] == [1, 1, 2, 4]
    assert chosen(6, 3000) == 6 and chosen(60, 100, row_length=3000) == 2
    assert chosen(4, 600, packing="none") == 1 and chosen(40, 600, packing="none") == 11


@pytest.mark.parametrize(("devices", "chosen"), [(1, None), (2, 1)])
def test_only_one_cpu_device_takes_a_step_in_microbatches_by_default(devices, chosen):
    mesh = make_mesh(devices=jax.devices()[:devices])
    assert choose_num_microbatches(TrainingConfig(), mesh) == chosen
    assert choose_num_microbatches(TrainingConfig(gradient_accumulation_steps=3), mesh) == 3
