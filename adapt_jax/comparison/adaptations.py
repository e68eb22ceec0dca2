"""Where a saved adaptation lies: in a folder of its own, of tune, or of compare."""

from pathlib import Path
from typing import TYPE_CHECKING

from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation

__all__ = ["find_adaptation", "open_adaptation"]


def open_adaptation(path: str, decoder: str | None) -> "Adaptation":
    """Opens a saved adaptation; see ``find_adaptation``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.utils.compilations import use_compilation_cache

    use_compilation_cache()
    return Adaptation.load(find_adaptation(path), decoder)


def find_adaptation(path: str, rung: str | None = None) -> Path:
    """The folder of an adaptation; of an output folder of tune the one in it, of compare the best.

    Args:
        rung: of a comparison, instead of the best.

    Raises:
        UserError: there is no such folder, a damaged comparison, or no such rung in it.
    """
    from adapt_jax.adaptation.storage import DESCRIPTION

    folder = to_path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if (folder / DESCRIPTION).is_file():
        if rung is not None:
            raise UserError(f"{folder}: is one adaptation, and has no rung {rung!r:.60}")
        return folder
    if rung is None and (folder / "adaptation" / DESCRIPTION).is_file():
        return folder / "adaptation"
    from adapt_jax.comparison.compare import RESULTS, Comparison  # it imports every room

    if (folder / RESULTS).is_file():
        return Comparison.load(folder).adaptation_folder(rung)
    if rung is not None:
        return folder / "adaptations" / rung
    return folder  # reading it says what is missing
