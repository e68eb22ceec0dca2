"""``adapt-jax perplexity`` says how well a decoder predicts plain texts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import ContextLength, Quiet
from adapt_jax.comparison.adaptations import open_adaptation
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.pretrained.loading import PretrainedDecoder

__all__ = ["perplexity"]


def perplexity(
    decoder: Annotated[
        str, Parameter(help="a decoder (a folder, a hub name, or `embedded`) or an adaptation")
    ],
    files: Annotated[
        list[Path],
        Parameter(name="TEXTS", help=".txt files, or .jsonl files with a `text` on each line"),
    ],
    /,
    *,
    context_length: ContextLength = None,
    json_output: Annotated[
        bool,
        Parameter(name="--json", help="print one JSON object and nothing else", show_default=False),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure perplexity and bits per byte of plain texts.

    Every token is predicted once; longer texts are cut into windows of the context, as
    lm-evaluation-harness does for its word and byte perplexity. Of an adaptation the tuned weights
    count, and not its instruction or demonstrations; one with a soft prompt is refused. Between
    decoders with different tokenizers compare bits per byte.

    ```
    adapt-jax perplexity path/to/model held_out.txt
    adapt-jax perplexity runs/lora articles.jsonl --json
    ```
    """
    from adapt_jax.evaluation.perplexity import measure_perplexity
    from adapt_jax.training.documents import read_documents
    from adapt_jax.utils.progress import Display

    texts = list(read_documents(files).values())
    model = _open(decoder, context_length)
    with Display(not (quiet or json_output)).stage("scoring") as update:
        found = measure_perplexity(model, texts, on_progress=update)
    if json_output:
        print(json.dumps(found.to_dict(), indent=2))
        return
    print(
        f"{found.texts:,} texts, {found.words:,} words, {found.utf8_bytes:,} bytes, "
        f"{found.tokens:,} tokens"
    )
    print(f"perplexity       {found.perplexity:.4f} per token")
    print(f"word perplexity  {found.word_perplexity:.4f}")
    print(f"byte perplexity  {found.byte_perplexity:.4f}")
    print(f"bits per byte    {found.bits_per_byte:.4f}")


def _open(path: str, context_length: int | None) -> "PretrainedDecoder":
    """A decoder, or the tuned one of an adaptation.

    Raises:
        UserError: it cannot be loaded, or has a soft prompt, which is trained for questions.
    """
    from adapt_jax.sampling.model import load_pretrained
    from adapt_jax.utils.compilations import use_compilation_cache

    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        adaptation = open_adaptation(path, None)
        if adaptation.soft_prompt is not None:
            raise UserError(
                f"{path}: has a soft prompt, which is trained for the questions of a task; "
                "expected a decoder, or an adaptation of its weights"
            )
        return adaptation.model
    use_compilation_cache()
    return load_pretrained(path, context_length=context_length)
