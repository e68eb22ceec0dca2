"""``adapt-jax lm-eval`` is lm-evaluation-harness's own command, with ``adapt_jax`` as a model."""

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

__all__ = ["is_harness_installed", "lm_eval", "run_harness"]


def lm_eval(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True, help="of the harness")],
) -> None:
    """Evaluate on tasks of EleutherAI's lm-evaluation-harness (`pip install adapt-jax[eval]`).

    Everything after `lm-eval` goes to the harness's own command line, which knows the model
    `adapt_jax`: `adapt-jax lm-eval run --model adapt_jax --model_args pretrained=FOLDER --tasks
    hellaswag`. `adaptation=FOLDER` asks behind a saved adaptation.
    """
    run_harness(arguments)


def is_harness_installed() -> bool:
    """Whether the extra ``eval`` is there."""
    return find_spec("lm_eval") is not None


def run_harness(arguments: Sequence[str]) -> int:
    """Registers the model, runs the harness's command line, and returns its exit code.

    Raises:
        UserError: the harness is not installed, or as the model raises it.
    """
    # first: it registers the model, and says in one line that the extra is not there
    importlib.import_module("adapt_jax.harness.model")
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]  # the harness reads them there
    try:
        cli_evaluate()
        return 0
    except SystemExit as ended:  # the parser's
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except KeyboardInterrupt:
        print("interrupted; --use_cache keeps the answers that are known", file=sys.stderr)
        return 130
    finally:
        sys.argv = before
