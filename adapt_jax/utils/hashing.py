"""Identities: short hashes of what a result depends on.

A value is hashed by its fields' names and values, never by the name or ``repr`` of its class, so
renaming or moving a class changes no identity.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
from pydantic import BaseModel

from adapt_jax.utils.bucket import fetch, is_address

__all__ = [
    "extension_version",
    "hash_named_files",
    "hash_sources",
    "identity",
    "to_plain",
]

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


def hash_named_files(settings: BaseModel) -> Any:
    """The settings by their names, with the content of every file and folder that they name.

    A text that is the path of a file or folder counts by what lies there and not by its name, at
    any depth. Fields that take fixed words only (``Literal``) name no files. Those of
    ``no_effect``, such as how often a run is saved, do not count.
    """
    fixed = {
        name
        for name, field in type(settings).model_fields.items()
        if get_origin(field.annotation) is Literal
    }
    no_effect: frozenset[str] = getattr(type(settings), "no_effect", frozenset())
    values = {
        name: getattr(settings, name)
        for name in type(settings).model_fields
        if name not in no_effect
    }
    return {
        name: to_plain(value) if name in fixed else _hash_contents(value)
        for name, value in values.items()
    }


def _hash_contents(value: Any) -> Any:
    match value:
        case str() | Path():
            path = str(fetch(value)) if is_address(value) else os.path.expanduser(value)
            is_there = os.path.isfile(path) or os.path.isdir(path)
            return {"content": _hash_path(Path(path))} if is_there else str(value)
        case BaseModel():
            return hash_named_files(value)
        case Mapping():
            return {key: _hash_contents(one) for key, one in value.items()}
        case list() | tuple():
            return [_hash_contents(one) for one in value]
    return to_plain(value)


def _hash_path(path: Path) -> Any:
    """SHA-256 of a file, or of each file below a folder by its name; hidden files do not count."""
    if not path.is_dir():
        return _hash_content(path)
    found = {}
    for one in sorted(path.rglob("*")):
        name = one.relative_to(path)
        if one.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = _hash_content(one)
    return found


def _hash_content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def hash_sources(*rooms: str) -> str:
    """A hash of the code in these folders of this package: it changes with every edit."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in rooms:
        for file in sorted((package / room).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def extension_version(extension: Any) -> Any:
    """The version of a registered parser, vote, scorer or method; it changes with its code.

    Its ``version``, 1 where it names none; whoever changes what an extension returns sets another
    one: ``my_parser.version = 2``. Of an extension that is defined outside this package also a hash
    of its source file, so that no edit goes unseen.
    """
    version = getattr(extension, "version", 1)
    module = getattr(extension, "__module__", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.split(".")[0] == "adapt_jax" or file is None or not Path(file).is_file():
        return [version]
    return [version, _hash_content(Path(file))]
