"""Options that several commands share, and how overrides of a configuration are collected."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from adapt_jax.utils.errors import UserError

__all__ = [
    "AdaptationPath",
    "Concurrency",
    "ContextLength",
    "DecoderPath",
    "OutputDir",
    "Overrides",
    "Quiet",
    "Seed",
    "TopLevelOverrides",
    "collect_overrides",
]

OutputDir = Annotated[
    str | None, Parameter(help="where results go; by default runs/NAME-OF-THE-CONFIG")
]
Quiet = Annotated[bool, Parameter(help="show no progress", show_default=False)]
Overrides = Annotated[
    list[str],
    Parameter(
        name="--set",
        help="override a key of the file: KEY=VALUE, the value in YAML; repeatable. "
        "`--a.b VALUE` is short for `--set a.b=VALUE`",
        show_default=False,
    ),
]
TopLevelOverrides = Annotated[
    str, Parameter(help="any other key of the file, such as --decoder, --task, --seed")
]
AdaptationPath = Annotated[
    str,
    Parameter(
        help="the output folder of compare (its recommended rung) or of tune; or a saved "
        "adaptation, such as RUN/adaptations/lora"
    ),
]
DecoderPath = Annotated[str | None, Parameter(help="where its decoder lies, if it was moved")]
Seed = Annotated[int, Parameter(help="of sampled candidates", validator=Number(gte=0, lt=2**32))]
Concurrency = Annotated[
    int | None,
    Parameter(
        help="sequences that are decoded at the same time; by default what memory allows",
        validator=Number(gte=1),
    ),
]
ContextLength = Annotated[
    int | None,
    Parameter(
        help="tokens of the longest text; by default as many as config.json says",
        validator=Number(gte=1),
    ),
]


def collect_overrides(
    overrides: Sequence[str], top_level: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Dotted keys with their values, still in YAML, from ``--set`` and from whole keys.

    Raises:
        UserError: one is not KEY=VALUE.
    """
    given: dict[str, Any] = {
        key.replace("-", "_"): value for key, value in (top_level or {}).items()
    }
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key or not equals:
            raise UserError(f"--set {override}: expected KEY=VALUE, such as task.seed=7")
        given[key] = value
    return given
