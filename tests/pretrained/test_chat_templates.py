"""Chat templates: programs out of a folder, rendered bounded, dated, and with every question."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.pretrained.chat import find_end_of_turn, has_chat_template, render_chat
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.utils import jinja_text
from adapt_jax.utils.errors import UserError

QUESTION = "What is 2 + 3?\n  Think."
PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] "
    "if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
)
EITHER = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}[{{ part['text'] }}]{% endfor %}{% endif %}{% endfor %}"
)


@pytest.fixture
def templated(tiny_folder: Path, tmp_path: Path) -> Callable[[str], PretrainedDecoder]:
    """The tiny decoder with a chat template."""

    def make(template: str) -> PretrainedDecoder:
        shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / "chat_template.jinja").write_text(template)
        return load_pretrained(tmp_path)

    return make


def render(model: PretrainedDecoder, *contents: str, **options: Any) -> str:
    """A conversation of user and assistant in turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return render_chat(model.tokenizer, messages, add_generation_prompt=True, template_args=options)


@pytest.mark.parametrize(
    ("template", "expected"),
    [(PARTS, f"<user>{QUESTION}"), (EITHER, QUESTION)],
    ids=["parts alone", "either"],
)
def test_contents_are_given_in_the_form_that_the_template_writes(
    template: str, expected: str, templated: Any
) -> None:
    assert render(templated(template), QUESTION) == expected


def test_a_rendering_without_the_question_is_refused(templated: Any) -> None:
    model = templated("{{ bos_token }}Hello.{{ messages[0]['content'][:14] }}")
    with pytest.raises(UserError, match=r"its chat template refuses: it leaves out 'Think\.'"):
        render(model, QUESTION)


def test_the_words_of_the_system_go_where_the_template_has_a_place_for_them(
    templated: Any,
) -> None:
    model = templated(
        "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}"
        "{% endif %}{% endfor %}"
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    text = render_chat(model.tokenizer, messages, add_generation_prompt=False)
    assert text == "<user>Be brief.\n\nWhy?"


def test_arguments_reach_the_template_and_its_date_is_fixed(templated: Any) -> None:
    model = templated(
        "{{ strftime_now('%d %b %Y') }}{% if enable_thinking is defined and not enable_thinking %}"
        " quick{% endif %}: {{ messages[0]['content'] }}"
    )
    assert render(model, "Why?") == "01 Jan 2025: Why?"
    assert render(model, "Why?", enable_thinking=False) == "01 Jan 2025 quick: Why?"
    assert render(model, "Why?", date="2026-03-09") == "09 Mar 2026: Why?"
    with pytest.raises(UserError, match="refuses: .*isoformat"):
        render(model, "Why?", date="yesterday")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{% if tools | length > 0 %}{% endif %}", "NoneType. has no len"),
        ("{{ messages[0].content / 2 }}", "unsupported operand"),
        ("{{ messages[0].a.b }}", "has no attribute 'a'"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 3000000000 }}", "more than 1 GiB"),
        ("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "more than 10,000,000 char"),
    ],
)
def test_whatever_a_template_raises_is_one_line(
    template: str, reason: str, templated: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"its chat template refuses: .*{reason}") as caught:
        render(templated(template), QUESTION)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}"
SLOW = "{% for i in range(60000) %}{% for j in range(100) %}{% endfor %}{% endfor %}"


def loop_if_asked(loop: str) -> str:
    """A template that runs a loop before it says ok, if the question is "Loop"."""
    return (
        "{% if messages[0].content == 'Loop' %}" + loop + "{% endif %}ok {{ messages[0].content }}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("loop", [ENDLESS, DOUBLING], ids=["nested loops", "a macro that doubles"])
@pytest.mark.parametrize("limit", ["MAX_CPU_SECONDS", "MAX_CLOCK_SECONDS"])
def test_a_template_without_end_is_stopped_and_the_next_one_renders(
    loop: str, limit: str, templated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = templated(loop_if_asked(loop))
    started = time.process_time()
    with monkeypatch.context() as patch:
        patch.setattr(jinja_text, limit, 0.3)
        with pytest.raises(UserError, match="refuses: it does not end within 0.3 seconds"):
            render(model, "Loop")
    assert time.process_time() - started < 1  # the work was done, and ended, elsewhere
    assert render(model, "Why?") == "ok Why?"


@pytest.mark.slow
def test_the_reply_to_an_interrupted_rendering_is_not_read_by_the_next_one(templated: Any) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    model = templated(loop_if_asked(SLOW))
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            render(model, "Loop")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert render(model, "Why?") == "ok Why?"


@pytest.mark.slow
def test_a_process_that_cannot_render_is_named(
    templated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = templated("{{ messages[0].content }}")
    with monkeypatch.context() as patch:
        patch.setattr(jinja_text, "WORKER", tmp_path / "absent.py")
        jinja_text._WORKER.stop()
        with pytest.raises(UserError, match="the process that renders it ended with code 2"):
            render(model, "Why?")
    assert render(model, "Why?") == "Why?"


def test_no_template_is_reported(tiny: PretrainedDecoder) -> None:
    assert not has_chat_template(tiny.tokenizer) and find_end_of_turn(tiny.tokenizer) is None
    with pytest.raises(UserError, match="no chat template; expected template plain"):
        render(tiny, "Why?")


@pytest.mark.parametrize(
    ("end", "expected"),
    [("<|eos|>", 1), (" <|pad|>\n", 2), ("\n", None), ("", None), ("<|pad|><|eos|>", 2)],
)
def test_the_end_of_turn_is_what_follows_the_assistants_words(
    end: str, expected: int | None, templated: Any
) -> None:
    model = templated(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}" + end + "{% endif %}{% endfor %}"
    )
    assert find_end_of_turn(model.tokenizer) == expected


def test_a_template_with_a_block_of_generation_renders_as_in_transformers(templated: Any) -> None:
    model = templated(
        "{% for m in messages %}\n{%- if m.role == 'assistant' -%}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m | tojson }}{% endif %}\n  {% endfor %}"
        "{% set x = namespace(a=1) %}{% set x.a = 2 %}{{ x.a }}{{ dict(b=3)['b'] }}"
        "{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    )
    messages: Any = [
        {"role": "user", "content": "it's <é>"},
        {"role": "assistant", "content": "yes"},
    ]
    expected = model.tokenizer.apply_chat_template(messages, tokenize=False)
    assert render_chat(model.tokenizer, messages, add_generation_prompt=False) == expected
