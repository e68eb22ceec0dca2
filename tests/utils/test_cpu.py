"""Tricks for CPUs that no other room tests."""

import gc

from adapt_jax.utils.cpu import OBJECTS_BEFORE_COLLECTION, collect_garbage_less_often


def test_garbage_is_collected_less_often_but_never_more_often_than_before():
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        collect_garbage_less_often()
        assert gc.get_threshold()[:2] == (OBJECTS_BEFORE_COLLECTION, 10)
        for kept in ((2 * OBJECTS_BEFORE_COLLECTION, 5, 5), (0, 10, 10)):  # 0: never
            gc.set_threshold(*kept)
            collect_garbage_less_often()
            assert gc.get_threshold()[:2] == kept[:2]
    finally:
        gc.set_threshold(*before)
