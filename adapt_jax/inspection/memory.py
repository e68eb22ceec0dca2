"""Bytes per device: the arrays from their shapes, what a step needs besides them from the compiler.

A step that scans its layers is compiled as it is. Where the layers of a deep decoder are unrolled,
two shallow depths are compiled. Memory is then linear in the layers, so the bytes at full depth lie
on the straight line through the two.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.inspection.abstract import cast, count_bytes
from adapt_jax.inspection.depth import MIN_DEPTH, extrapolate, find_pattern, keep_first_layers
from adapt_jax.inspection.workload import BuildPrograms, Program
from adapt_jax.utils.errors import UserError

__all__ = [
    "Measurement",
    "Memory",
    "choose_depths",
    "compile_bytes",
    "count_bytes_beside",
    "measure",
    "read_refusal",
]

# Every layer is traced a few times; the deepest released decoders have 126.
MAX_LAYERS = 160
MAX_UNLIKE_LAYERS = 64  # that are compiled one by one
LINEAR_TOLERANCE = 0.02  # how far from the line the bytes of the arguments may be
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """The memory of a device at the fullest moment.

    Attributes:
        moment: the program that runs then.
        parts: bytes by part. "activations" are what the compiler adds, without "gradients".
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
class Measurement:
    """The programs of a method, and what each needs besides its arguments.

    Attributes:
        temporary: bytes of each program; None where nothing was compiled.
        depths: in layers, those that were compiled.
        process: bytes that are no arrays; 0 where the device has a memory of its own.
    """

    programs: list[Program]
    temporary: list[int] | None = None
    depths: tuple[int, ...] = ()
    process: int = 0

    def memory(self, dtype: Any = None) -> Memory:
        """The fullest moment.

        Args:
            dtype: of frozen weights and caches; by default that of the compilation.
        """
        return max(self.moments(dtype), key=lambda moment: moment.total)

    def moments(self, dtype: Any = None) -> list[Memory]:
        """The memory while each of the programs runs; ``dtype`` as in ``memory``."""
        return [self._measure_moment(index, dtype) for index in range(len(self.programs))]

    def _measure_moment(self, index: int, dtype: Any) -> Memory:
        """The memory while one program runs."""
        program = self.programs[index]
        parts: dict[str, int] = {}
        for name, tree in (program.arguments | program.co_resident).items():
            part, _, has_fixed_dtype = name.partition("/")
            size = count_bytes(tree if dtype is None or has_fixed_dtype else cast(tree, dtype))
            parts[part] = parts.get(part, 0) + size
        internal = {part: count_bytes(tree) for part, tree in program.internal.items()}
        if self.temporary is not None:
            activations = self.temporary[index] - sum(internal.values())
            internal["activations"] = max(0, activations)
        if self.process:
            internal["process"] = self.process
        return Memory(program.name, parts | internal)


def measure(
    build: BuildPrograms, config: DecoderConfig, on_program: Callable[[int, int, str], None]
) -> Measurement:
    """Compiles each program at one or two depths.

    Args:
        on_program: called with (done, of how many, what comes next) before each compilation.

    Raises:
        UserError: the decoder has more layers than are traced, or compiled one by one.
    """
    if config.num_layers > MAX_LAYERS:
        raise UserError(
            f"{config.num_layers:,} layers: the memory of more than {MAX_LAYERS} is not computed; "
            "--quick shows all that is known without it"
        )
    programs = build(config)
    depths = choose_depths(build, config, programs)
    if depths == (config.num_layers,) and config.num_layers > MAX_UNLIKE_LAYERS:
        if not all(one.scans_layers or one.lower is None for one in programs):
            raise UserError(
                f"{config.num_layers} layers that do not repeat: more than {MAX_UNLIKE_LAYERS} are "
                "not compiled one by one; --quick shows all that is known without it"
            )
    found: list[dict[int, int]] = [{} for _ in programs]
    total = len(depths) * len(programs)
    for number, depth in enumerate(depths):
        shallow = (
            programs if depth == config.num_layers else build(keep_first_layers(config, depth))
        )
        for index, program in enumerate(shallow):
            on_program(number * len(programs) + index, total, f"{program.name}, {depth} layers")
            found[index][depth] = compile_bytes(program)
    on_program(total, total, "")
    temporary = [extrapolate(by_depth, config.num_layers) for by_depth in found]
    return Measurement(programs, temporary, depths)


def compile_bytes(program: Program) -> int:
    """Compiles a program; the bytes that a device needs besides the program's arguments.

    That is the compiler's working memory, gradients included, and where its layouts pad the
    arrays, what that adds. A program that is too large for the device that it is compiled for
    needs what the compiler says in its refusal.

    Raises:
        UserError: the compiler refuses without naming a size.
    """
    if program.lower is None:
        return 0
    lowered = program.lower()
    first = next(leaf for leaf in jax.tree.leaves(program.arguments))
    platform = jax.default_backend()
    if first.sharding is not None:
        platform = next(iter(first.sharding.device_set)).platform
    # On a CPU less effort for the code leaves its memory the same, and takes half the time.
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
    arguments = count_bytes(program.arguments)
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as refusal:
        return read_refusal(str(refusal), program.name, arguments)
    return count_bytes_beside(compiled, arguments)


def count_bytes_beside(compiled: Any, arguments: int) -> int:
    """Bytes that a device needs for a compiled program, beside those of its arguments."""
    found = compiled.memory_analysis()
    whole = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    return max(0, whole - arguments)


def read_refusal(message: str, name: str, arguments: int) -> int:
    """The bytes besides the arguments, from what the compiler says of a program too large.

    It names either the temporary bytes ("HLO temporaries (42.47G)"), or all that the program uses
    ("Used 18.40G of 15.75G hbm").

    Raises:
        UserError: the message names neither.
    """
    size = r"\(?([\d.]+)([KMGT]?)\b"
    if found := re.search(rf"temporaries {size}", message):
        return _parse_size(*found.groups())
    if found := re.search(rf"Used {size} of", message):
        return max(0, _parse_size(*found.groups()) - arguments)
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    raise UserError(f"{name}: the compiler refuses it: {first[:300]}") from None


def _parse_size(number: str, unit: str) -> int:
    return round(float(number) * UNITS[unit])


def choose_depths(
    build: BuildPrograms, config: DecoderConfig, programs: list[Program]
) -> tuple[int, ...]:
    """The depths to compile: two shallow ones, or the whole where it does not follow from them.

    Steps that scan their layers need no shallow decoder.
    """
    (lead, period), layers = find_pattern(config), config.num_layers
    low = lead + max(MIN_DEPTH, period)
    high = 2 * low - lead
    if layers <= high or all(one.scans_layers or one.lower is None for one in programs):
        return (layers,)
    try:
        arguments = {
            depth: sum(
                count_bytes(one.arguments) for one in build(keep_first_layers(config, depth))
            )
            for depth in (low, high)
        }
    except UserError:  # a part that only the whole decoder has
        return (layers,)
    whole = sum(count_bytes(program.arguments) for program in programs)
    error = abs(extrapolate(arguments, layers) - whole)
    return (low, high) if error <= LINEAR_TOLERANCE * whole else (layers,)
