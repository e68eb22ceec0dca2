"""Where a saved adaptation lies: in a folder of its own, of tune, or of compare."""

from pathlib import Path
from typing import TYPE_CHECKING

from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.evaluation.results import ComparisonResult

__all__ = ["RESULTS", "find_adaptation", "find_rung_folder", "open_adaptation"]

RESULTS = "comparison.json"


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
    if (folder / RESULTS).is_file():
        from adapt_jax.evaluation.report.files import read_comparison

        return find_rung_folder(folder, read_comparison(folder / RESULTS), rung)
    if rung is not None:
        return folder / "adaptations" / rung
    return folder  # reading it says what is missing


def find_rung_folder(output_dir: Path, result: "ComparisonResult", rung: str | None) -> Path:
    """Where a comparison saved the adaptation of a rung.

    Args:
        output_dir: the folder of ``comparison.json``.
        rung: its method; None: the one that is enough.

    Raises:
        UserError: the rung was skipped, or is not on this ladder.
    """
    rung = rung or result.best
    if rung is None:
        raise UserError(f"{output_dir}: no adaptation, every rung was skipped")
    # one that was skipped has no folder
    folders = {one.method: one.folder for one in result.rungs if one.status == "done"}
    if rung not in folders:
        why = "was skipped" if rung in [one.method for one in result.rungs] else "did not run"
        raise UserError(
            f"{output_dir}: no adaptation, {rung} {why}; there are {', '.join(folders) or 'none'}"
        )
    return output_dir / folders[rung] / "adaptations" / rung
