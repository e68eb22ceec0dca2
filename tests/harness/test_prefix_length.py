"""Prefixes of generated answers end where what follows them is read with little padding."""

from adapt_jax.harness.generation import MAX_SHORTER, choose_prefix_length


def choose(rests: list[int], shared: int = 400, least: int = 0, platform: str = "cpu") -> int:
    return choose_prefix_length([shared + rest for rest in rests], shared, least, platform)


def test_rests_of_one_padded_length_keep_all_that_they_share():
    assert choose([20, 25, 32]) == 400
    assert choose([33, 40, 48]) == 400
    assert choose([700]) == 400


def test_rests_that_straddle_a_padded_length_are_read_together():
    # 31 is padded to 32 and 33 to 48: two tokens more of each, and all are padded to 48
    assert choose([30, 31, 34]) == 397
    assert choose([30, 31, 34], platform="gpu") == 397


def test_few_long_rests_are_read_apart():
    # 10 batches of 16 x 32 and one of 10 x 96 are less than 161 rows of 96
    assert choose([10] * 160 + [90]) == 400


def test_what_is_fixed_stays_in_the_prefix():
    assert choose([30, 34], shared=1, least=1) == 1
    assert choose([30, 34], shared=2, least=1) == 2
    assert choose([30, 34], shared=10, least=0) == 7


def test_a_prefix_is_little_shorter_than_what_is_shared():
    assert 400 - choose([1, 600]) <= MAX_SHORTER
