"""``adapt-jax pretrain`` trains a decoder on plain text."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import OutputDir, Overrides, Quiet, TopLevelOverrides, collect_overrides

__all__ = ["pretrain"]


def pretrain(
    config: Annotated[str, Parameter(help="a YAML file such as configs/pretrain/arithmetic.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Train a decoder on plain text, from scratch or from another decoder.

    Trains every parameter on the files that `corpus:` lists (.txt, or .jsonl with a "text" on each
    line) and writes a Hugging Face folder. `decoder:` is a folder to start from, or the shape of a
    new one. Interrupted, it continues as tune does.
    """
    from adapt_jax.training.pretraining import PretrainingConfig
    from adapt_jax.training.pretraining import pretrain as run_pretraining
    from adapt_jax.utils.agreement import agree
    from adapt_jax.utils.bucket import to_path
    from adapt_jax.utils.bucket_mirror import mirror
    from adapt_jax.utils.compilations import use_compilation_cache
    from adapt_jax.utils.config import override, read_yaml, validate
    from adapt_jax.utils.files import check_output_folder
    from adapt_jax.utils.progress import Display

    content = override(read_yaml(config), collect_overrides(overrides, top_level), config)
    settings = validate(PretrainingConfig, content, config)
    use_compilation_cache()
    output = to_path(output_dir or Path("runs") / Path(config).stem)
    agree("configuration", {**settings.model_dump(mode="json"), "output-dir": str(output)})
    check_output_folder(output)
    base = to_path(config).parent
    with mirror(output) as local, Display(not quiet).stage("pretraining") as update:
        result = run_pretraining(settings, local, update, base=base)
    print(f"last loss {result.losses[-1]:.4f} nats per token, {result.seconds:.0f} seconds")
    print(f"saved: {output}")
