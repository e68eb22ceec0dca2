"""The work that is inspected: its size, and the compiled steps that do it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.inspection.abstract import Tree

__all__ = ["BuildPrograms", "Program", "Workload"]


@dataclass(frozen=True)
class Workload:
    """The size of a step, the same for all methods.

    Attributes:
        batch: examples of a training step.
        length: tokens of an example, question and answer.
        answer: of these, the tokens that the loss is on, or that are generated.
        prefix: tokens of the prompt prefix, without a soft prompt.
        max_concurrent_sequences: sequences that are decoded at the same time.
        candidates: of a single question; no more sequences than these are decoded.
    """

    batch: int = 32
    length: int = 256
    answer: int = 128
    prefix: int = 0
    max_concurrent_sequences: int = 128
    candidates: int | None = None


@dataclass(frozen=True)
class Program:
    """A step that can be compiled, and what a device holds while it runs.

    Keys of the mappings are names of parts. A part "name/detail" counts as "name"; its dtype is
    fixed, while the dtype of the others is that of the frozen weights.

    Attributes:
        arguments: what the step reads and what it returns.
        lower: to ``jax.stages.Lowered``; None where nothing is compiled.
        co_resident: what else is on the device meanwhile.
        internal: what exists only inside the step; the compiler counts it as temporary.
        scans_layers: whether layers are compiled once and looped over, so that the whole decoder
            compiles in the time of a few layers.
    """

    name: str
    arguments: dict[str, Tree]
    lower: Callable[[], Any] | None = None
    co_resident: dict[str, Tree] = field(default_factory=dict)
    internal: dict[str, Tree] = field(default_factory=dict)
    scans_layers: bool = False


BuildPrograms = Callable[[DecoderConfig], list[Program]]  # for a decoder of this shape
