"""``python -m adapt_jax`` is ``adapt-jax``."""

import sys

from adapt_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
