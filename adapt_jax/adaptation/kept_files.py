"""What a saved adaptation keeps for its next process, in a hidden folder of its own.

ADAPTATION/.cache/fingerprint.json          of the decoder, with its files as they were
ADAPTATION/.cache/prefix-*.safetensors      encoded prompt prefixes, see sampling.prefix_files

All of it can be removed at any time. Where it cannot be written, and in buckets, nothing is kept.
"""

import contextlib
import stat
import time
from pathlib import Path
from typing import Any

from adapt_jax.pretrained.hf_folder import find_cached_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, list_shape_fields
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.sampling.prefix_files import PrefixFiles, read_size_limit
from adapt_jax.utils import distributed
from adapt_jax.utils.bucket import is_address
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import try_to_write, write_json
from adapt_jax.utils.hashing import hash_sources, identity
from adapt_jax.utils.text_files import read_json

__all__ = ["FingerprintRecord", "find_kept_folder", "open_prefix_files"]

FOLDER, FINGERPRINT = ".cache", "fingerprint.json"
RECORD_VERSION = 1  # raised when the content of FINGERPRINT changes
# Two writes within one tick of a file system's clock leave the same times, and ticks are up to two
# seconds long. So the times of younger files prove nothing.
SECONDS_UNTIL_TRUSTED = 10


def find_kept_folder(folder: str | Path) -> Path | None:
    """Where a saved adaptation keeps files; None for a bucket, and where it is turned off."""
    if is_address(folder) or read_size_limit() == 0:
        return None
    return Path(folder) / FOLDER


def open_prefix_files(
    folder: str | Path, model: PretrainedDecoder, lora_weights: LoRAWeights | None
) -> PrefixFiles | None:
    """The encoded prefixes of a saved adaptation, where it keeps files.

    Args:
        model: the decoder that answers, with ``lora_weights`` merged. Its weights are those that
            were read from files.
    """
    if (kept := find_kept_folder(folder)) is None:
        return None
    weights: Any = model.fingerprint
    if lora_weights is not None:  # quicker to hash than what they were merged into
        weights = [lora_weights, hash_sources("pretrained")]
    decoder = identity("decoder", weights, str(model.decoder.embedding[...].dtype))
    return PrefixFiles(kept, model, decoder, read_size_limit())


class FingerprintRecord:
    """The fingerprint of a decoder's weights, which need not be hashed while its files stay as is.

    A file counts as the same while its device, inode, size, and times of writing (mtime) and of any
    change (ctime) are the same; no program can set the last. The record also covers the code that
    reads weights, the shape and the dtype.

    Args:
        folder: as ``find_kept_folder`` gives it.
        decoder: the folder, or name, of the decoder. Its files are looked at now, before they
            are read.
    """

    def __init__(self, folder: Path, decoder: str | Path):
        self._file, self._decoder = folder / FINGERPRINT, decoder
        self._began = time.time()
        self._before = _describe_files(decoder)
        self._recorded: Any = None
        with contextlib.suppress(UserError, OSError):
            self._recorded = read_json(self._file) if self._file.is_file() else None

    def restore_or_save(self, model: PretrainedDecoder) -> None:
        """Gives the decoder the recorded fingerprint; where there is none, records its own.

        Args:
            model: as it was read from the files.
        """
        if not self._restore(model):
            self._save(model)

    def _restore(self, model: PretrainedDecoder) -> bool:
        """Gives the decoder the recorded fingerprint, if its files have not changed since."""
        if self._before is None or not isinstance(self._recorded, dict):
            return False
        fingerprint = self._recorded.get("fingerprint")
        is_same = self._recorded == self._describe(model, fingerprint)
        if not is_same or self._before != _describe_files(self._decoder):
            return False
        vars(model)["fingerprint"] = fingerprint
        return True

    def _save(self, model: PretrainedDecoder) -> None:
        """Hashes the weights and records their fingerprint, if the folder can be written."""
        if self._before is None or self._before != _describe_files(self._decoder):
            return
        youngest = max(max(times) for _, _, _, *times in self._before.values())
        content = self._describe(model, model.fingerprint)
        is_old = youngest < (self._began - SECONDS_UNTIL_TRUSTED) * 10**9
        if is_old and content != self._recorded and distributed.is_main_process():
            with try_to_write(self._file.parent):
                write_json(self._file, content)

    def _describe(self, model: PretrainedDecoder, fingerprint: Any) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "fingerprint": fingerprint,
            "shape": identity(list_shape_fields(model.config)),
            "dtype": str(model.decoder.embedding[...].dtype),
            "code": hash_sources("decoders", "pretrained"),
            "files": self._before,
        }


def _describe_files(decoder: str | Path) -> dict[str, list[int]] | None:
    """Device, inode, size, mtime and ctime (ns) of each file of a decoder; None: it is not here."""
    folder = find_cached_folder(decoder)
    if folder is None:
        return None
    try:
        files = [folder] if folder.is_file() else sorted(folder.iterdir())
        found = {
            file.name: [at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns]
            for file, at in ((file, file.stat()) for file in files)
            if not stat.S_ISDIR(at.st_mode)
        }
    except OSError:
        return None
    return found or None
