"""Foreign text on a terminal: nothing in it is obeyed, and nothing of it is endless."""

import pytest

from adapt_jax.utils.display_text import display_text, quote_text


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 你好, नमस्ते, ½ €", "Grüße, 你好, नमस्ते, ½ €"),
        ("two\nlines\tand  more", "two lines and more"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]8;;http://x\x07link", r"\x1b]8;;http://x\x07link"),
        ("\x9b2J", r"\x9b2J"),  # the control sequence introducer in one byte
        ("back\x08space, bell\x07, nul\x00", r"back\x08space, bell\x07, nul\x00"),
        ("abc\u202edcba", r"abc\u202edcba"),  # reversed reading order
        ("half \ud83d of an emoji", r"half \ud83d of an emoji"),
        ("line\u2028separator", "line separator"),
        (
            "[link=http://x]here[/link] [/red] $\\frac$",
            "[link=http://x]here[/link] [/red] $\\frac$",
        ),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(foreign: str, shown: str):
    assert display_text(foreign) == shown


def test_a_long_text_is_cut():
    assert display_text("ab" * 10, 10) == "ababababa…"
    assert display_text("ab" * 5, 10) == "ab" * 5
    assert display_text("a" + " " * 2000 + "b", 10) == "a…"
    assert display_text("a" + " " * 20 + "b", 10) == "a b"
    assert len(display_text("x" * 10**7)) == 300
    assert len(display_text("\x1b" * 1000, 50)) == 50
    assert len(display_text("x" * 1000, None)) == 1000
    assert quote_text("say\n\x1b") == '"say \\x1b"'
