"""Training examples, a task and a configuration that the tests of training share."""

import jax
import numpy as np
from flax import nnx

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.packing import TrainingExample

SOFT = nnx.PathContains("soft_prompt")
CONFIG = TrainingConfig(steps=8, batch_size=4, learning_rate=1e-2, warmup_steps=2, row_length=64)
ITEMS = [
    Example(
        f"train-{a}-{b}",
        f"Jane has {a} apples. She bought {b} more. How many apples does she have?",
        str(a + b),
        reasoning=f"Jane starts with {a} and buys {b}, so {a} + {b} = {a + b}.",
    )
    for a in range(2, 6)
    for b in range(2, 6)
]
TASK = Task("sums", ITEMS[:12], (), ITEMS[12:], instruction="Solve the problem.")


def made_examples(count=12, seed=0):
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        tokens = rng.integers(3, 320, rng.integers(6, 30))
        start = int(rng.integers(1, len(tokens) - 1))
        examples.append(TrainingExample(str(number), tuple(tokens.tolist()), start))
    return examples


def soft_prompt(length=5, seed=1):
    return SoftPrompt(np.random.default_rng(seed).normal(0, 0.2, (length, 32)))


def leaves(model, chosen=nnx.Param):
    state = nnx.state(model, chosen)
    return {
        str(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
