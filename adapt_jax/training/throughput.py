"""How fast a training goes, and what share of the machine's peak that is."""

import functools
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["StepFlops", "peak_flops"]

# Floating point operations per second of one device in bfloat16, dense, by a part of its kind's
# name; from the vendors' data sheets.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
LAYER = re.compile(r"\.layers\.(\d+)\.")
BEFORE_ATTENTION = re.compile(r"\.attention\.((query|kv)(_down|_up)?|key|value)\.")
MATRIX_SIZE = 1024  # of the matrices that are multiplied where the peak is not known


@functools.cache
def peak_flops() -> float:
    """Operations per second that all devices of this run can do, at best.

    Of a device that PEAKS does not know, such as a CPU, it is measured: the best of five products
    of float32 matrices. Simulated devices share one CPU, which is counted once.
    """
    device = jax.devices()[0]
    for kind, peak in PEAKS.items():
        if kind in device.device_kind:
            return peak * jax.device_count()
    matrix = jnp.ones((MATRIX_SIZE, MATRIX_SIZE), jnp.float32)
    multiply = jax.jit(lambda a: a @ a)
    multiply(matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        multiply(matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return (
        2 * MATRIX_SIZE**3 / min(seconds) * (jax.device_count() if device.platform != "cpu" else 1)
    )


class StepFlops:
    """Counts the floating point operations of a training step.

    With N weights in the layers' matrices, N' of them trained, H weights in the output matrix and
    in what the last layer computes after its attention, H' of them trained, T tokens of a step, the
    shared prefix counted once, and M targets:

        4 (N T + H M) + 2 (N' T + H' M)

    Forward 2, the gradient of the inputs 2, the gradient of the weights 2, for each weight and
    token: 6 N T in all for full training, 4 N T where the decoder is frozen. Attention scores and
    rematerialisation are not counted (2204.02311, appendix B, counts the first).
    """

    def __init__(self, trainable: Any, frozen: Any, prefix_length: int, members: int = 1):
        """Args:
        trainable, frozen: the two parts of a TunedDecoder's state.
        prefix_length: in tokens.
        members: of an ensemble, each of which does all of this.
        """
        last = max(
            _find_layer(path)
            for path, _ in jax.tree_util.tree_leaves_with_path((trainable, frozen))
        )
        inner, output = _count_weights(trainable, last)
        frozen_inner, frozen_output = _count_weights(frozen, last)
        self.trained = inner, output
        self.all = inner + frozen_inner, output + frozen_output
        self.prefix_length, self.members = prefix_length, members

    def count(self, tokens: int, targets: int) -> float:
        """Operations of a step with this number of tokens and, among them, of targets."""
        tokens += self.prefix_length
        (trained, trained_output), (inner, output) = self.trained, self.all
        every = 4 * (inner * tokens + output * targets)
        return self.members * (every + 2 * (trained * tokens + trained_output * targets))


def _find_layer(path: Any) -> int:
    """The number of the layer that a parameter is in; -1 where it is in none."""
    found = LAYER.search(jax.tree_util.keystr(path, simple=True, separator="."))
    return int(found[1]) if found else -1


def _count_weights(state: Any, last: int) -> tuple[int, int]:
    """Weights of the matrices that every token is multiplied with, and of those of targets only.

    A tied embedding is the output matrix.
    """
    inner = after_attention = output = embedding = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if leaf.ndim < 2:
            continue
        if (number := _find_layer(path)) >= 0:
            if number < last or BEFORE_ATTENTION.search(name):
                inner += leaf.size
            else:
                after_attention += leaf.size
        elif "decoder.output" in name:
            output += leaf.size
        elif "decoder.embedding" in name:
            embedding += leaf.size
    return inner, after_attention + (output or embedding)
