"""``adapt-jax export`` writes an adaptation for others."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from adapt_jax.cli.options import AdaptationPath, DecoderPath
from adapt_jax.comparison.adaptations import open_adaptation

__all__ = ["export"]


def export(
    adaptation: AdaptationPath,
    folder: Annotated[str, Parameter(help="a new folder")],
    /,
    *,
    format: Annotated[
        str | None, Parameter(help="hf (weights) or peft (adapter); by default what it can be")
    ] = None,
    dtype: Annotated[
        str | None,
        Parameter(
            help="of hf weights: float32, bfloat16 or float16; by default that of the decoder's "
            "own files"
        ),
    ] = None,
    max_shard_size: Annotated[str, Parameter(help="of one file of hf weights")] = "5GB",
    verify: Annotated[
        int | None,
        Parameter(
            help="questions that are asked through the folder with transformers or PEFT, to see "
            "that it answers alike; by default 3 where they are installed",
            validator=Number(gte=0, lte=1000),
        ),
    ] = None,
    decoder: DecoderPath = None,
) -> None:
    """Write an adaptation for transformers or PEFT.

    Writes full or merged weights as a Hugging Face folder (--format hf), or the soft prompt or the
    LoRA factors alone as a PEFT adapter (--format peft). README.md in it says how to ask.
    """
    from adapt_jax.adaptation.export import (
        check_export_folder,
        choose_export_dtype,
        export_adaptation,
    )

    check_export_folder(folder)
    opened = open_adaptation(adaptation, decoder)
    written = export_adaptation(
        opened,
        folder,
        format=format,
        dtype=dtype,
        max_shard_size=max_shard_size,
        verify=verify,
    )
    if (written / "config.json").is_file():
        why = "" if dtype else ", as the decoder's own files; --dtype chooses another"
        print(f"weights: {choose_export_dtype(opened, dtype)}{why}")
    print(f"exported: {written} (how to ask: {written / 'README.md'})")
