"""How long a rung takes here: its floating-point operations over a product that is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from adapt_jax.decoders.config import DecoderConfig

__all__ = ["Speed", "Work", "estimate_seconds", "measure_speed"]

ROWS, INNER, OUTER = 512, 1024, 4096  # of the measured product
FEW_ROWS = 8  # decoding multiplies few rows: it waits for the weights
REPEATS = 5
EFFICIENCY = 0.5  # of the product's rate that whole commands reach, on two CPUs
STEP_OVERHEAD = 2e-3  # seconds of a decoding step besides its products
COMPILE_SECONDS = (2.0, 0.25)  # of a rung: a constant, and a slope per layer


@dataclass(frozen=True)
class Speed:
    """What the device was measured to do.

    Attributes:
        flops: operations of a product of many rows, in a second.
        weights: parameters that a product of few rows goes through, in a second.
    """

    flops: float
    weights: float


@dataclass(frozen=True)
class Work:
    """What a rung does, in tokens.

    Attributes:
        prefix: tokens that are encoded once.
        questions: that are answered.
        question_tokens: of one question.
        new_tokens: generated for one candidate, at most; 0 where choices are scored.
        candidates: of one question.
        concurrent: sequences that are decoded at the same time.
        trained_tokens: of all training steps together.
        backward: operations of forward and backward for a token and parameter; 6 trains all.
    """

    prefix: int = 0
    questions: int = 0
    question_tokens: float = 0
    new_tokens: float = 0
    candidates: int = 1
    concurrent: int = 64
    trained_tokens: float = 0
    backward: float = 6


def measure_speed() -> Speed:
    """Times a product of many rows and one of few on this machine, about a second in all."""
    weights = jnp.full((INNER, OUTER), 0.01, jnp.float32)
    product = jax.jit(lambda rows, weights: rows @ weights)
    many = _measure_seconds(lambda: product(jnp.ones((ROWS, INNER)), weights))
    few = _measure_seconds(lambda: product(jnp.ones((FEW_ROWS, INNER)), weights))
    return Speed(2 * ROWS * INNER * OUTER / many, INNER * OUTER / few)


def _measure_seconds(call: Callable[[], Any]) -> float:
    """The fastest of several calls, in seconds, after one that compiles."""
    call().block_until_ready()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-7)


def estimate_seconds(work: Work, parameters: int, config: DecoderConfig, speed: Speed) -> float:
    """The time of a rung, compiling included.

    Reading a prompt takes 2 operations for each token and parameter. A decoding step goes through
    all weights once, or takes as long as its products. Attention is left out.
    """
    read = work.prefix + work.questions * work.question_tokens
    operations = 2 * parameters * read + work.backward * parameters * work.trained_tokens
    sequences = work.questions * work.candidates
    rows = max(min(work.concurrent, sequences), 1)
    step = max(parameters / speed.weights, 2 * parameters * rows / (EFFICIENCY * speed.flops))
    steps = work.new_tokens * sequences / rows
    compiling = COMPILE_SECONDS[0] + COMPILE_SECONDS[1] * config.num_layers
    return compiling + operations / (EFFICIENCY * speed.flops) + steps * (step + STEP_OVERHEAD)
