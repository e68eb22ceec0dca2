"""Stop strings. They are looked for in decoded text, wherever the borders of tokens are."""

from collections.abc import Callable, Sequence

__all__ = ["cut_at_stop", "find_stop"]


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins in ``text``; None if there is none."""
    found = [at for at in map(text.find, stop) if at >= 0]
    return min(found, default=None)


def cut_at_stop(
    decode: Callable[[Sequence[int]], str], tokens: Sequence[int], stop: Sequence[str], checked: int
) -> tuple[int, str] | None:
    """The number of tokens up to a stop string, and the text before it; None if there is none.

    The result is that of a check after every single token, however many tokens come at once.

    Args:
        decode: token ids to text.
        tokens: all that were generated so far, without the prompt.
        checked: how many of them are known to hold no stop string.
    """
    if not stop or find_stop(decode(tokens), stop) is None:
        return None
    for count in range(checked + 1, len(tokens) + 1):
        text = decode(tokens[:count])
        at = find_stop(text, stop)
        if at is not None:
            return count, text[:at]
    return None
