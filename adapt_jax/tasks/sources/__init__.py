"""Where examples come from: sources, and the readers of their files.

A new source is a function of a ``SourceRequest``:

    from adapt_jax.tasks.sources import SOURCES, Row

    @SOURCES.register("squares")
    def squares(request):
        rows = [Row(f"square {n}", n, {"question": f"{n}^2?", "answer": n * n}) for n in range(9)]
        return {"all": rows}

Rows may come from a generator: each is read once, so that a source may be larger than the memory.
"""

import adapt_jax.tasks.sources.embedded
import adapt_jax.tasks.sources.tfds  # noqa: F401  (each registers its source)
from adapt_jax.tasks.sources.files import normalize_source
from adapt_jax.tasks.sources.registry import SOURCES, SPLITS, Rows, Sizes, SourceRequest
from adapt_jax.tasks.sources.rows import Row

__all__ = ["SOURCES", "SPLITS", "Row", "Rows", "Sizes", "SourceRequest", "normalize_source"]
