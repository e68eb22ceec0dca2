"""``python -m adapt_jax`` is ``adapt-jax``."""

from adapt_jax.cli.process import run

if __name__ == "__main__":
    run()
