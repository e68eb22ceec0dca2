"""Identities: short hashes of what a result depends on.

A value is hashed by its fields' names and values, never by the name or ``repr`` of its class, so
renaming or moving a class changes no identity.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

__all__ = ["get_version", "hash_files", "identity", "to_plain"]

IDENTITY_VERSION = 1  # raised when the way values are hashed changes; old identities never match


def to_plain(value: Any) -> Any:
    """The value as JSON data, from which ``identity`` is computed.

    Dataclasses and pydantic models become mappings of their fields; bytes and arrays become their
    SHA-256; a float that is no number becomes its name.

    Raises:
        TypeError: for a value of another kind, whose text could name a class or an address.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else repr(value)
        case bytes():
            return {"sha256": hashlib.sha256(value).hexdigest()}
        case Path():
            return str(value)
        case Enum():
            return to_plain(value.value)
        case BaseModel():
            return {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
        case np.ndarray() if not value.dtype.hasobject:
            content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": content}
        case np.generic():
            return to_plain(value.item())
        case Mapping():
            # pairs, because keys may be numbers or tuples, and in a set order
            pairs = [[to_plain(key), to_plain(one)] for key, one in value.items()]
            return {"mapping": sorted(pairs, key=lambda pair: json.dumps(pair[0]))}
        case set() | frozenset():
            return {"set": sorted(map(to_plain, value), key=json.dumps)}
        case list() | tuple():
            return [to_plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"no identity of a {type(value).__name__}: {value!r}")


def identity(*parts: Any) -> str:
    """16 hex digits over all that a piece of work depends on."""
    text = json.dumps([IDENTITY_VERSION, to_plain(parts)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def get_version(extension: Any) -> Any:
    """The ``version`` of a registered parser, vote or scorer; 1 where it names none.

    It is part of the identity of what the extension reads or decides. Whoever changes what an
    extension returns sets another one: ``my_parser.version = 2``.
    """
    return getattr(extension, "version", 1)


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 by name of those files of a folder that are there."""
    digests = {}
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
