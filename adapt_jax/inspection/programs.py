"""The compiled steps of a method, on abstract arrays.

They are the very steps that training and decoding run. A step is lowered from abstract arguments
(``jax.ShapeDtypeStruct``), so nothing is allocated, and the devices of its mesh need not be there.
"""

from typing import Any

from jax.sharding import Mesh

from adapt_jax.inspection.decoding_programs import make_decoding_programs
from adapt_jax.inspection.training_programs import make_training_programs
from adapt_jax.inspection.workload import BuildPrograms, Workload
from adapt_jax.methods.base import Method, PromptingMethod, TuningMethod
from adapt_jax.utils.errors import UserError

__all__ = ["build_programs"]


def build_programs(method: Method, work: Workload, dtype: Any, mesh: Mesh | None) -> BuildPrograms:
    """The programs of a method, which run one after the other.

    Args:
        dtype: of the frozen weights, and of the cache.

    Raises:
        UserError: a method that neither prompts nor tunes.
    """
    if isinstance(method, TuningMethod):
        return lambda config: make_training_programs(config, method, work, dtype, mesh)
    if isinstance(method, PromptingMethod):
        return lambda config: make_decoding_programs(config, method, work, dtype, mesh)
    raise UserError(
        f"--method {method.name}: expected a PromptingMethod or a TuningMethod; this one says "
        "neither how it prompts nor what it trains"
    )
