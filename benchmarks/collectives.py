"""The communication of a compiled program, read from its HLO: kinds, numbers and sizes."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

__all__ = ["Collectives", "read_collectives"]

HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
CHANNEL = re.compile(r"channel_id=(\d+)")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Collectives:
    """What one execution of a program communicates.

    Attributes:
        counts: by kind, how many are executed.
        nbytes: by kind, the bytes of their arrays in full, that is gathered or before scattering.
        in_loops: by kind, how many of ``counts`` are executed in loops.
    """

    counts: dict[str, int]
    nbytes: dict[str, int]
    in_loops: dict[str, int]


def read_collectives(text: str) -> Collectives:
    """Reads an optimised HLO module.

    A loop counts as often as its condition says. A gather that XLA has cut into steps, which run
    beside products, is one collective: its parts have one channel. An all-reduce inside XLA's fused
    "all-reduce-scatter" is a reduce-scatter.
    """
    bodies, entry = _split_computations(text)
    times = _count_executions(bodies, entry)
    counts, nbytes, in_loops = Counter[str](), Counter[str](), Counter[str]()
    seen = set()
    for name, lines in bodies.items():
        for line in lines:
            found = COLLECTIVE.search(line)
            if found is None or not times[name]:
                continue
            kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else found[2]
            channel = CHANNEL.search(line)
            key = (kind, channel[1] if channel else line, times[name])
            if key in seen:
                continue
            seen.add(key)
            counts[kind] += times[name]
            nbytes[kind] += times[name] * _count_bytes(found[1], line)
            in_loops[kind] += times[name] if times[name] > 1 else 0
    return Collectives(dict(counts), dict(nbytes), dict(in_loops))


def _split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that is the program."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = header[2]
            bodies[current] = []
            entry = current if header[1] else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _count_executions(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs in one execution of the program."""
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            loop = WHILE.search(line)
            trips = _count_trips(line, bodies[loop[1]]) if loop else 1
            called = CALLED.findall(line)
            for group in BRANCHES.findall(line):
                called += [one.strip().lstrip("%") for one in group.split(",")]
            calls[name] += [(one, trips) for one in called if one in bodies]
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for called, trips in calls[name]:
            visit(called, factor * trips)

    visit(entry, 1)
    return times


def _count_trips(line: str, condition: list[str]) -> int:
    """How often a loop runs: as XLA says, or up to the number that its condition compares with."""
    if known := TRIPS.search(line):
        return int(known[1])
    return max((int(number) for one in condition for number in CONSTANT.findall(one)), default=1)


def _count_bytes(result: str, line: str) -> int:
    """Bytes of the arrays in a result. A started gather's result names its operand first."""
    sizes = []
    for dtype, dimensions in ARRAY.findall(result):
        bits = 8 if dtype == "pred" else int(BITS.findall(dtype)[0])
        size = bits // 8
        for dimension in dimensions.split(","):
            size *= int(dimension or 1)
        sizes.append(size)
    if "all-gather-start(" in line and len(sizes) > 1:
        return max(sizes)
    return sum(sizes)
