"""The prompt's hash in a prediction."""

import hashlib

import numpy as np
import pytest
from helpers import EXAMPLES, prompt

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.prompting.prompt import hash_prompts


def test_a_prompt_is_hashed_by_its_token_ids():
    both = hashlib.sha256(np.array([1, 2, 3, 70000], "<i4").tobytes()).hexdigest()
    assert hash_prompts([1, 2], [[3, 70000], [4]])[0] == both
    assert hash_prompts([1], [[2, 3, 70000]]) == [both]
    assert hash_prompts([1, 2], [[3, 70001]]) != [both]


@pytest.mark.slow
def test_predictions_tell_whether_their_prompts_are_the_same(tiny):
    first = Adaptation("zero_shot", prompt(), tiny).answer(EXAMPLES[:2])
    hashes = [one.prompt_sha256 for one in first]
    assert len(set(hashes)) == 2 and all(len(one) == 64 for one in hashes)
    assert [one.to_dict()["prompt_sha256"] for one in first] == hashes
    again = Adaptation("zero_shot", prompt(max_new_tokens=3), tiny).answer(EXAMPLES[:2])
    assert [one.prompt_sha256 for one in again] == hashes
