"""``adapt-jax lm-eval`` is lm-evaluation-harness's own command, with ``adapt_jax`` as a model."""

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

__all__ = ["lm_eval", "run_harness"]


def lm_eval(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True, help="of the harness")],
) -> None:
    """Evaluate on tasks of EleutherAI's lm-evaluation-harness (`pip install adapt-jax[eval]`).

    Everything after `lm-eval` goes to the harness's own command line, which knows the model
    `adapt_jax`: `adapt-jax lm-eval run --model adapt_jax --model_args pretrained=FOLDER --tasks
    hellaswag`. `adaptation=FOLDER` asks behind a saved adaptation.
    """
    run_harness(arguments)


def run_harness(arguments: Sequence[str]) -> None:
    """Registers the model and runs the harness's command line, whose exit codes are kept.

    Raises:
        SystemExit: as the harness ends.
        UserError: the harness is not installed, or as the model raises it.
    """
    from lm_eval.__main__ import cli_evaluate

    import adapt_jax.harness.model  # noqa: F401 (registers the model)

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]  # the harness reads them there
    try:
        cli_evaluate()
    finally:
        sys.argv = before
