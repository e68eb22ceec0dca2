"""Requests of random tokens, and what the engine answers."""

import numpy as np

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import GenerationConfig


def greedy(model, requests, prefix=(), max_concurrent_sequences=8, **options):
    engine = Engine(
        model,
        Prefix((tuple(prefix),)),
        GenerationConfig(**options),
        seed=0,
        max_concurrent_sequences=max_concurrent_sequences,
    )
    found = {}
    for index, number, candidate in engine.run(requests):
        found[index, number] = candidate
    return found


def draws(length, seed=0):
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 300, length))
