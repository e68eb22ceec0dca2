"""``adapt-jax``, and ``python -m adapt_jax``."""

import sys

from adapt_jax.host_memory import start_with_huge_pages


def start() -> int:
    """Runs the command line; before anything else is imported, memory is seen to."""
    start_with_huge_pages()
    from adapt_jax.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
