"""Chat templates: the tokens of transformers, for prompting, demonstrations and tuning alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.methods.instruction_examples import Forms, Part, tokenize_parts
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.prompt import (
    MethodNotApplicable,
    Prompt,
    check_prompt,
    resolve_template,
    tokenize,
)
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import CHAT, Demonstration, Template
from adapt_jax.training.examples import tokenize_examples
from adapt_jax.utils.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set turn = '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] "
    "| trim + '<|eos|>' %}{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<|eos|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama 3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}
SAYS = "Solve it. Mind { and }."
SHOWN = Demonstration("What is 1 + 1?", "2", "One and one more make 2.")
EXAMPLES = [
    Example("1", "Jane has 2 apples and 3 more. How many?", "5", "2 + 3 = 5."),
    Example("2", "Joe has 12 oranges, Ann has 4. How many?", "16", "12 + 4 = 16."),
]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny decoder with one of TEMPLATES, made once."""
    made: dict[str, PretrainedDecoder] = {}

    def get(name: str) -> PretrainedDecoder:
        if name not in made:
            folder = write_tiny_llama(tmp_path_factory.mktemp("chat"))
            (folder / "chat_template.jinja").write_text(TEMPLATES[name])
            made[name] = load_pretrained(folder)
        return made[name]

    return get


def reference(model: PretrainedDecoder, turns: list[tuple[str, str]], answering: bool) -> list[int]:
    """The tokens of transformers."""
    said: Any = model.tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        add_generation_prompt=answering,
        return_dict=False,
    )
    return list(said)


def conversation(name: str, asked: str, *shown: Demonstration) -> list[tuple[str, str]]:
    """The turns as the template takes them: without a system's, its words open the first."""
    turns = []
    for one in shown:
        turns += [("user", one.question), ("assistant", f"{one.reasoning} The answer is 2.")]
    turns.append(("user", asked))
    if name in ("chatml", "llama 3"):
        return [("system", SAYS), *turns]
    return [("user", f"{SAYS}\n\n{turns[0][1]}"), *turns[1:]]


@pytest.mark.parametrize("shown", [(), (SHOWN, SHOWN)], ids=["bare", "few-shot"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_asked_is_token_identical_to_transformers(
    name: str, shown: tuple[Demonstration, ...], chatting: Any
) -> None:
    model = chatting(name)
    prompt = Prompt(template=CHAT, instruction=SAYS, demonstrations=shown, reasoning=True)
    asked = [CHAT.format_question(example.question) for example in EXAMPLES]
    prompt_prefix, questions = tokenize(model, prompt, asked)
    for text, question in zip(asked, questions, strict=True):
        expected = reference(model, conversation(name, text, *shown), answering=True)
        assert [*prompt_prefix, *question] == expected
        bos = expected.count(model.config.bos_id)
        assert bos == (0 if name == "chatml" else 1)  # as the template has it, never twice
    alone, _ = tokenize(model, prompt, asked[:1])
    assert alone == prompt_prefix and len(prompt_prefix) > len(model.encode(SAYS))


@pytest.mark.parametrize("name", TEMPLATES)
def test_tuning_sees_the_conversation_and_one_end_of_turn(name: str, chatting: Any) -> None:
    model = chatting(name)
    prompt = Prompt(template=CHAT, instruction=SAYS, reasoning=True)
    prepared = tokenize_examples(model, prompt, EXAMPLES)
    asked = [CHAT.format_question(example.question) for example in EXAMPLES]
    prompt_prefix, questions = tokenize(model, prompt, asked)
    assert list(prepared.prompt_prefix) == prompt_prefix
    for example, one, question in zip(EXAMPLES, prepared.examples, questions, strict=True):
        assert list(one.tokens[: one.target_start]) == question  # as generation sees it
        response = f"{example.reasoning} The answer is {example.answer}."
        turns = [*conversation(name, example.question), ("assistant", response)]
        expected = reference(model, turns, answering=False)
        target, eos = list(one.tokens[one.target_start :]), model.config.eos_ids[0]
        assert target.count(eos) == 1 and target[-1] == eos
        if name == "chatml":  # its end of turn is no EOS of this decoder, so EOS follows it
            assert [*prompt_prefix, *question, *target[:-1]] == expected
        else:
            assert [*prompt_prefix, *question, *target] == expected[
                : len(prompt_prefix + question + target)
            ]
            assert eos not in expected[len(prompt_prefix + question + target) :]


def test_a_decoder_without_a_chat_template_is_asked_plainly_and_told_so(
    tiny: PretrainedDecoder, chatting: Any
) -> None:
    task = Task("t", (), (), EXAMPLES, template=CHAT)
    plain = resolve_template(task, tiny)
    assert plain.template == Template() and "has no chat template" in plain.warnings[-1]
    assert resolve_template(task, chatting("gemma")) is task
    with pytest.raises(UserError, match="no chat template; expected template plain"):
        tokenize(tiny, Prompt(template=CHAT), ["Why?"])


def test_a_task_file_asks_for_the_chat_template_by_name(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(
        "\n".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) for n in range(8))
    )
    settings = {"name": "t", "source": {"name": "jsonl", "path": "data.jsonl"}}
    settings |= {"splits": {"test": 2}}

    def loaded(template: Any) -> Template:
        (tmp_path / "task.yaml").write_text(yaml.safe_dump({**settings, "template": template}))
        return load_task(tmp_path / "task.yaml").template

    assert loaded("chat") == CHAT and loaded("plain") == Template()
    worded = loaded({"chat": True, "answer": "It is {answer}."})
    assert worded == replace(CHAT, answer="It is {answer}.")
    with pytest.raises(UserError, match="template: 'caht' is none of plain, chat; did you mean"):
        loaded("caht")
    with pytest.raises(UserError, match="template.chat: expected true or false"):
        loaded({"chat": "yes"})


def test_a_template_that_refuses_the_turns_is_reported_in_one_line(
    tmp_path: Path,
) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only tools') }}")
    with pytest.raises(UserError, match="its chat template refuses: only tools"):
        tokenize(load_pretrained(folder), Prompt(template=CHAT), ["Why?"])


def test_a_chat_template_travels_with_saved_weights(chatting: Any, tmp_path: Path) -> None:
    from adapt_jax.pretrained.saving import save_pretrained

    model = chatting("llama 3")
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path)
    assert again.tokenizer.get_chat_template() == LLAMA3


def test_arguments_of_the_chat_template_reach_it(make_tiny_llama: Any, tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "llama")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '!' if shout else '?' }}"
    )
    model = load_pretrained(folder)
    loud = replace(CHAT, chat_template_args={"shout": True})
    assert Prompt(template=CHAT).render_prompt(model, "Why").endswith("Why?")
    assert Prompt(template=loud).render_prompt(model, "Why").endswith("Why!")
    saved = Prompt(template=loud)
    assert saved.template.chat_template_args == {"shout": True}
    with pytest.raises(UserError, match="belongs to `chat: true`"):
        Template(chat_template_args={"shout": True})


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
)


CLOSED = "{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
CLOSING = THINKING.replace("{% endif %}{% endif %}", CLOSED)
ALWAYS = THINKING.replace("enable_thinking is not defined or enable_thinking", "true")


def thinking(tmp_path: Path) -> PretrainedDecoder:
    folder = write_tiny_llama(tmp_path / "thinking")
    (folder / "chat_template.jinja").write_text(THINKING)
    return load_pretrained(folder)


def test_a_generation_prompt_that_opens_thoughts_skips_tuning_with_a_reason(tmp_path: Path) -> None:
    model, prompt = thinking(tmp_path), Prompt(template=CHAT, reasoning=True)
    assert prompt.render_prompt(model, "Why?").endswith("assistant\n<think>\n")
    with pytest.raises(MethodNotApplicable, match=r"begins an answer with '<think>\\n'"):
        tokenize_examples(model, prompt, EXAMPLES)
    quiet = replace(prompt, template=replace(CHAT, chat_template_args={"enable_thinking": False}))
    assert len(tokenize_examples(model, quiet, EXAMPLES).examples) == 2
    # what generates goes on; what scores given choices behind open thoughts does not
    task = Task("t", EXAMPLES, (), EXAMPLES, template=CHAT)
    check_prompt(model, prompt, task)
    remedy = r"chat_template_args: \{enable_thinking: false\}"
    with pytest.raises(MethodNotApplicable, match=remedy):
        check_prompt(model, replace(prompt, multiple_choice=MultipleChoiceConfig()), task)


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        (THINKING, "template: {chat: true, chat_template_args: {enable_thinking: false}}"),
        # Qwen3 closes the thoughts itself
        (CLOSING, "template: {chat: true, chat_template_args: {enable_thinking: false}}"),
        (ALWAYS, "its template has no enable_thinking; to ask without: template: plain"),
        (THINKING.replace("<think>", "[THINK]"), "chat_template_args: {enable_thinking: false}"),
        (THINKING.replace("<think>", "<think></think>"), ""),
        (THINKING.replace("<think>\n", ""), ""),
    ],
)
def test_prompting_tuning_and_export_say_how_to_ask_without_thoughts(
    template: str, remedy: str, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path / "thinking")
    (folder / "chat_template.jinja").write_text(template)
    model = load_pretrained(folder)
    task = Task("t", EXAMPLES, (), EXAMPLES, template=CHAT)
    said = [one for one in resolve_template(task, model).warnings if "thinks before" in one]
    assert len(said) == bool(remedy) and all(remedy in one for one in said)
    asked = Adaptation("zero_shot", Prompt(template=CHAT), model)
    export_adaptation(asked, tmp_path / "out", verify=0)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert ("thinks before it answers" in readme) == bool(remedy)
    if remedy:
        with pytest.raises(MethodNotApplicable) as told:
            tokenize_examples(model, Prompt(template=CHAT), EXAMPLES)
        assert remedy in str(told.value)
    plain = replace(task, template=Template())
    assert not any("thinks" in one for one in resolve_template(plain, model).warnings)


def test_the_other_rungs_go_on_where_tuning_is_skipped(tmp_path: Path) -> None:
    from adapt_jax.comparison.compare import compare

    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "sums",
        "source": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")},
        "template": "chat",
        "splits": {"test": 2},
    }
    config = {
        "decoder": thinking(tmp_path).path,
        "task": task,
        "methods": {"zero_shot": {"max_new_tokens": 4}, "lora": {"training": {"steps": 1}}},
    }
    found = compare(config, tmp_path / "run", progress=False)
    assert found["zero_shot"].status == "done"
    assert found["lora"].status == "skipped" and "<think>" in found["lora"].reason


def test_a_merge_between_question_and_answer_is_refused_in_prompting_as_in_tuning(
    tiny: PretrainedDecoder,
) -> None:
    merging = Template(question="{question} app", answer="les {answer}", choice="")
    prompt = Prompt(template=merging)
    task = Task("t", EXAMPLES, (), EXAMPLES, template=merging)
    with pytest.raises(UserError) as in_prompting:
        check_prompt(tiny, prompt, task)
    with pytest.raises(UserError) as in_tuning:
        tokenize_examples(tiny, prompt, EXAMPLES)
    assert str(in_prompting.value) == str(in_tuning.value)
    assert "example '1': the tokenizer merges the end of the question" in str(in_tuning.value)


def test_a_template_without_a_stop_string_is_reported(tiny: PretrainedDecoder) -> None:
    bare = Template(question="{question} =", separator="\n")
    task = Task("t", (), (), EXAMPLES, template=bare)
    [warning] = resolve_template(task, tiny).warnings
    assert "no stop string" in warning and "template.stop" in warning
    for template in (replace(bare, stop=("\n",)), Template()):
        assert not resolve_template(replace(task, template=template), tiny).warnings


def test_choices_that_spell_control_tokens_are_scored_as_text(chatting: Any) -> None:
    model, prompt = chatting("llama 3"), Prompt(template=CHAT)
    eos = model.tokenizer.eos_token
    text = prompt.render_prompt(model, "Which?")
    tokens = prompt.encode_with_start(model, text, f"It is {eos}.")
    assert tokens.count(model.config.eos_ids[0]) == text.count(eos)
    plain = Prompt(template=Template())
    assert model.config.eos_ids[0] not in plain.encode_with_start(model, "Which?", f" {eos}.")


def test_instruction_tuning_forms_are_conversations(chatting: Any) -> None:
    """Demonstrations, templates in Jinja and inverted examples, in the decoder's own template."""
    model = chatting("chatml")
    items = [Example(f"{n}", f"Is {n} odd?", "yes" if n % 2 else "no") for n in range(8)]
    jinja = replace(CHAT, question="{{ question | upper }}")
    task = Task("odd", items, (), (), instruction=SAYS, template=CHAT, templates=(jinja,))
    parts = [Part(task, items, items)]

    def show(forms: Forms) -> list[str]:
        found = tokenize_parts(model, Prompt(template=CHAT), parts, forms, 0).examples
        return [str(model.tokenizer.decode(one.tokens)) for one in found]

    asked = show(Forms())
    assert {"IS" in one for one in asked} == {True, False}
    assert all(one.count("assistant") == 1 for one in asked)
    shown = show(Forms(few_shot_share=1.0, max_demonstrations=2))
    assert {one.count("assistant") for one in shown} == {2, 3}
    inverted = show(Forms(inversion_share=1.0))
    assert all(one.index("yes" if "yes" in one else "no") < one.index("odd?") for one in inverted)
