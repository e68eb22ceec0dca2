"""When a text is finished: stop strings, found in decoded text whatever the tokens' borders."""

from collections.abc import Callable, Sequence


def earliest_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in ``text``, or None."""
    found = [at for at in map(text.find, stop) if at >= 0]
    return min(found, default=None)


def cut_at_stop(
    decode: Callable[[Sequence[int]], str], tokens: Sequence[int], stop: Sequence[str], seen: int
) -> tuple[int, str] | None:
    """(how many tokens it took, the text before the stop string), or None where none occurs.

    The answer is that of a check after every single token, however many come at once.

    Args:
        decode: token ids to text.
        tokens: all that were generated so far; the prompt is not among them.
        seen: how many of them were already found to hold no stop string.
    """
    if not stop or earliest_stop(decode(tokens), stop) is None:
        return None
    for count in range(seen + 1, len(tokens) + 1):
        text = decode(tokens[:count])
        at = earliest_stop(text, stop)
        if at is not None:
            return count, text[:at]
    return None
