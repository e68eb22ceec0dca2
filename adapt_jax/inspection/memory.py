"""Bytes per device: parts from shapes, what a step needs beside them from the compiler."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.inspection.programs import Build, Program, cast, nbytes
from adapt_jax.utils.errors import UserError

# Compiled shallow and continued in a straight line: a step's memory is linear in its layers.
SHALLOW = 2
AFFINE = 0.02  # how far from a line the bytes of what is held may be


@dataclass(frozen=True)
class Memory:
    """What a device holds at the fullest moment.

    Attributes:
        moment: the program during which this is.
        parts: bytes by part; "activations" are all that the compiler adds, of which "gradients"
            were taken off where there are any.
    """

    moment: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of one device."""
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Measured:
    """The programs of a method, and what each needs beside the arrays that it holds.

    Attributes:
        scratch: bytes of each program; None, where nothing was compiled.
        depths: in layers, those that were compiled.
        process: bytes that are no arrays; 0, where the device has a memory of its own.
    """

    programs: list[Program]
    scratch: list[int] | None = None
    depths: tuple[int, ...] = ()
    process: int = 0

    def memory(self, dtype: Any = None) -> Memory:
        """The moment at which most is held.

        Args:
            dtype: of frozen weights and caches, where it is not the one that was compiled.
        """
        moments = []
        for index, program in enumerate(self.programs):
            parts: dict[str, int] = {}
            for name, tree in (program.held | program.beside).items():
                part, _, fixed = name.partition("/")
                size = nbytes(tree if dtype is None or fixed else cast(tree, dtype))
                parts[part] = parts.get(part, 0) + size
            inside = {part: nbytes(tree) for part, tree in program.within.items()}
            if self.scratch is not None:
                inside["activations"] = max(0, self.scratch[index] - sum(inside.values()))
            if self.process:
                inside["process"] = self.process
            moments.append(Memory(program.name, parts | inside))
        return max(moments, key=lambda moment: moment.total)


def measure(
    build: Build, config: DecoderConfig, on_program: Callable[[int, int, str], None]
) -> Measured:
    """Compiles each program at one or two depths.

    Args:
        on_program: told (done, of how many, what comes next) before each compilation.
    """
    programs = build(config)
    depths = depths_of(build, config, programs)
    scratch: list[dict[int, int]] = [{} for _ in programs]
    total = len(depths) * len(programs)
    for number, depth in enumerate(depths):
        shallow = programs if depth == config.num_layers else build(shortened(config, depth))
        for index, program in enumerate(shallow):
            on_program(number * len(programs) + index, total, f"{program.name}, {depth} layers")
            scratch[index][depth] = temporary(program)
    on_program(total, total, "")
    return Measured(programs, [line(found, config.num_layers) for found in scratch], depths)


def temporary(program: Program) -> int:
    """Compiles; the bytes that a device needs beside the shapes of what the program holds.

    That is the compiler's working memory, gradients included, and where its layouts pad the
    arrays, what that adds.
    """
    if program.lower is None:
        return 0
    lowered = program.lower()
    first = next(leaf for leaf in jax.tree.leaves(program.held))
    platform = jax.default_backend()
    if first.sharding is not None:
        platform = next(iter(first.sharding.device_set)).platform
    # On a CPU less effort for the code leaves its memory the same, and takes half the time.
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
    found = lowered.compile(compiler_options=options).memory_analysis()
    whole = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    return max(0, whole - nbytes(program.held))


def line(found: dict[int, int], layers: int) -> int:
    """The value at ``layers`` of the straight line through what was found at other depths."""
    if layers in found:
        return found[layers]
    (low, below), (high, above) = sorted(found.items())
    return max(0, above + round((above - below) / (high - low) * (layers - high)))


def depths_of(build: Build, config: DecoderConfig, programs: list[Program]) -> tuple[int, ...]:
    """The depths to compile: two shallow ones, or the whole where these do not tell about it."""
    low, layers = max(SHALLOW, period(config)), config.num_layers
    high = 2 * low
    if layers <= high:
        return (layers,)
    try:
        held = {
            depth: sum(nbytes(program.held) for program in build(shortened(config, depth)))
            for depth in (low, high)
        }
    except UserError:  # a part that only the whole decoder has
        return (layers,)
    whole = sum(nbytes(program.held) for program in programs)
    return (low, high) if abs(line(held, layers) - whole) <= AFFINE * whole else (layers,)


def period(config: DecoderConfig) -> int:
    """After how many layers their kinds repeat; 1 where all are alike."""
    kinds = config.layer_configs
    for length in range(1, len(kinds) // 4 + 1):
        if kinds[length:] == kinds[:-length]:
            return length
    return 1


def shortened(config: DecoderConfig, layers: int) -> DecoderConfig:
    """The same decoder with its first layers alone."""
    kinds = config.layer_configs
    return replace(
        config, num_layers=layers, layer_configs=kinds[:layers] if len(kinds) > 1 else kinds
    )
