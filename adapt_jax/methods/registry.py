"""The ladder: every method by its name, from the lowest rung up.

A method that is defined elsewhere is registered by the same decorator as those of this package,
and then works in every command:

    from adapt_jax.methods.base import TuningMethod
    from adapt_jax.methods.registry import METHODS

    @METHODS.register("bitfit", after="lora")
    class BitFit(TuningMethod):
        ...

The module with these lines is loaded by ``--plugin``, or through the entry-point group
``adapt_jax``. The methods of this package are imported when a name is first looked up, so
importing the registry alone is quick.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from adapt_jax.utils.errors import nearest
from adapt_jax.utils.registry import Registry

if TYPE_CHECKING:
    from adapt_jax.methods.base import Method

__all__ = ["METHODS"]

# Names of the built-in methods, and of the modules in this package that define them.
LADDER = (
    "zero_shot",
    "few_shot",
    "chain_of_thought",
    "self_consistency",
    "prompt_tuning",
    "lora",
    "fine_tuning",
    "instruction_tuning",
)


class MethodRegistry(Registry["type[Method]"]):
    """Methods by name, in the order of the ladder."""

    def __init__(self) -> None:
        super().__init__("method")
        self._after: dict[str, str] = {}

    def register(
        self, name: str, *, after: str | None = None
    ) -> Callable[["type[Method]"], "type[Method]"]:
        """A class decorator that registers a method and gives it its name.

        Args:
            after: the method directly below it in the ladder; by default it is the highest rung.

        Raises:
            ValueError: the name is taken by another class.
        """
        register = super().register(name)

        def enter(method: "type[Method]") -> "type[Method]":
            register(method)
            method.name = name
            if after is not None:
                self._after[name] = after
            return method

        return enter

    def find(self, name: str, where: str = "") -> "type[Method]":
        """The method of this name; see Registry.find."""
        self._import_ladder()
        return super().find(name, where)

    def describe_unknown(self, name: str) -> str:
        """The message for a name that is not registered."""
        return f"unknown method {name!r}{nearest(name, self)}; the rungs are {', '.join(self)}"

    def __getitem__(self, name: str) -> "type[Method]":
        self._import_ladder()
        return super().__getitem__(name)

    def __len__(self) -> int:
        self._import_ladder()
        return super().__len__()

    def __iter__(self) -> Iterator[str]:
        self._import_ladder()
        others = [name for name in self._entries if name not in LADDER]
        order = [*LADDER, *(name for name in others if name not in self._after)]
        waiting = [name for name in others if name in self._after]
        while waiting:
            # one may be above another that waits; a rung that does not exist counts as the top
            ready = [name for name in waiting if self._after[name] not in waiting] or waiting
            for name in ready:
                lower = self._after[name]
                order.insert(order.index(lower) + 1 if lower in order else len(order), name)
            waiting = [name for name in waiting if name not in ready]
        return iter(order)

    def _import_ladder(self) -> None:
        """Imports the built-in methods, which register themselves."""
        for name in LADDER:
            if name not in self._entries:
                importlib.import_module(f"adapt_jax.methods.{name}")


METHODS = MethodRegistry()
