"""Characters that mean the same, made one: for reading answers, never for showing them."""

import re
import unicodedata

__all__ = ["normalize_digits", "normalize_widths"]

# a narrow space between digits groups them; an ordinary one separates numbers
GROUPING_SPACE = "\u202f"
_GROUPING_SPACES = "\u00a0\u2007\u2009\u200a\u202f\u205f"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("(?<=[0-9])([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e\u2189])")
_SAME_SHAPE = ("<wide>", "<narrow>", "<noBreak>", "<compat>", "<font>")


class _Widths(dict[int, str]):
    """Maps full-width, half-width and styled forms to the ordinary character.

    Superscripts, fractions and circled forms stay: m² is not m2.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        tag = unicodedata.decomposition(character).partition(" ")[0]
        if tag in _SAME_SHAPE:
            character = unicodedata.normalize("NFKC", character)
        self[code] = character
        return character


class _Digits(dict[int, str]):
    """Maps decimal digits, dashes, spaces and vulgar fractions of any script to ASCII."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _to_ascii(chr(code))
        return found


_WIDTHS, _DIGITS = _Widths(), _Digits()


def _to_ascii(character: str) -> str:
    if character.isascii():
        return character
    if character in _GROUPING_SPACES:
        return GROUPING_SPACE
    if character in _INVISIBLE:
        return ""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character in "−⁃﹣":
        return "-"
    if category == "Zs":
        return " "
    if unicodedata.decomposition(character).startswith("<fraction>"):
        fraction = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
        return fraction if not fraction.endswith("/") else character
    same = {"⁄": "/", "∕": "/", "÷": "/", "⋅": "·", "∙": "·", "’": "'", "‘": "'", "ʼ": "'"}
    arabic = {"٫": ".", "٬": ",", "٪": "%"}
    plain = unicodedata.normalize("NFKC", character)
    wide = unicodedata.decomposition(character).startswith(("<wide>", "<small>"))
    return same.get(character) or arabic.get(character) or (plain if wide else character)


def normalize_widths(text: str) -> str:
    """Full-width and styled letters as ordinary ones, accents composed (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_WIDTHS))


def normalize_digits(text: str) -> str:
    """Digits, dashes, fraction bars and spaces of any script in ASCII; ``10³`` as ``10^{3}``."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[1].translate(_SUPERSCRIPTS)}}}", text)
    return _VULGAR_FRACTION.sub(" ", text).translate(_DIGITS)  # 3½ is 3 1/2
