"""How far a number may be from the gold answer."""

import math
from dataclasses import dataclass

__all__ = ["EXACT", "Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """A number is near enough where either holds, as in Python's ``math.isclose``.

    Attributes:
        relative: the difference as a share of the larger of the two numbers.
        absolute: the difference itself.
    """

    relative: float = 0.0
    absolute: float = 0.0

    def __bool__(self) -> bool:
        return self.relative > 0 or self.absolute > 0

    def accepts(self, one: float, other: float) -> bool:
        """Whether two floats are near enough."""
        return math.isclose(one, other, rel_tol=self.relative, abs_tol=self.absolute)


EXACT = Tolerance()
