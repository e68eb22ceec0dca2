"""Exported folders: the code in their README.md gives the texts that the adaptation gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from peft_cases import soft, updates
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation import export as export_module
from adapt_jax.adaptation import verification as verification_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.adaptation.recipe import build_readme
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.errors import UserError

QUESTIONS = ("Jane has 2 apples. How many?", "Is <|eos|> the end?", "Why {question}?")
CHAT = (
    "{% for m in messages %}<|bos|>{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def chat_decoder(tmp_path_factory: pytest.TempPathFactory) -> PretrainedDecoder:
    """A decoder whose folder says how to chat, and to generate in other ways than asked here."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("chat"), tie_word_embeddings=False, seed=4)
    generation = {
        "eos_token_id": [1, 7],
        "do_sample": True,
        "temperature": 0.6,
        "repetition_penalty": 1.9,
        "num_beams": 2,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "chat_template.jinja").write_text(CHAT)
    return load_pretrained(folder)


def adapt(model: PretrainedDecoder, template: Template | None = None, **more: Any) -> Adaptation:
    shown = (Demonstration("1 + 1?", "2", "One and one.", ("1", "2")),)
    decoding = GenerationConfig(max_new_tokens=12, stop=("e", "\n\n"))
    prompt = Prompt(template or Template(), "Solve it.", shown, True, generation_config=decoding)
    return Adaptation("adapted", prompt, model, **more)


def run_readme(folder: Path) -> Any:
    """``ask`` as the code in a folder's README.md defines it."""
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with verification_module._silence_transformers():
        exec(code.replace('folder = "."', f"folder = {str(folder)!r}", 1), names)
    return names["ask"]


@pytest.mark.parametrize("kind", ["soft_prompt", "lora as peft", "lora as hf", "weights", "chat"])
def test_the_code_in_the_readme_gives_the_texts_that_ask_gives(
    chat_decoder: PretrainedDecoder, tmp_path: Path, kind: str
) -> None:
    format = None
    match kind:
        case "soft_prompt":
            adaptation = adapt(chat_decoder, soft_prompt=soft(chat_decoder))
        case "weights":
            adaptation = adapt(chat_decoder)
        case "chat":
            chat = Template(
                instruction="{instruction}",
                question="{question}",
                answer="{answer}",
                answer_with_reasoning="{reasoning} {answer}",
                chat=True,
            )
            adaptation = adapt(chat_decoder, chat)
        case _:
            made = updates(chat_decoder, "query", "down")
            adaptation = adapt(made.merge_into(chat_decoder), lora_weights=made)
            format = kind.split()[-1]
    folder = export_adaptation(adaptation, tmp_path / "out", format=format)
    ask = run_readme(folder)
    assert 'print(ask("your question"))' in (folder / "README.md").read_text()
    for question in QUESTIONS:
        choices = ("3 {letter}", "4") if question == QUESTIONS[0] else ()
        expected = adaptation.ask(question, choices).candidates[0].text
        if kind != "chat" or "<|" not in question:  # a chat template's text has control tokens
            assert ask(question, choices) == expected


def test_a_folder_that_answers_otherwise_is_not_exported(
    chat_decoder: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another(folder: Path, soft_prompt: SoftPrompt, model: PretrainedDecoder) -> None:
        write(folder, SoftPrompt(-3 * soft_prompt.embeddings[...]), model)

    write = export_module.write_soft_prompt
    monkeypatch.setattr(export_module, "write_soft_prompt", write_another)
    adaptation = adapt(chat_decoder, soft_prompt=soft(chat_decoder))
    with pytest.raises(UserError, match="PEFT generates another text .* nothing was exported: to"):
        export_adaptation(adaptation, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_adaptation(adaptation, tmp_path / "out", verify=0).is_dir()


def test_a_prompt_that_is_tokenized_otherwise_is_not_exported(
    chat_decoder: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = verification_module.build_recipe
    monkeypatch.setattr(
        verification_module,
        "build_recipe",
        lambda *args, **options: build(*args, **options).replace("return [0] + ids", "return ids"),
    )
    with pytest.raises(UserError, match="transformers reads .* tokens where adapt_jax reads"):
        export_adaptation(adapt(chat_decoder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_another_tool_refuses_is_not_exported(
    chat_decoder: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification_module, "build_recipe", lambda *_, **__: "1 / 0")
    with pytest.raises(UserError, match="cannot use the exported folder.*division by zero"):
        export_adaptation(adapt(chat_decoder), tmp_path / "out")
    monkeypatch.setattr(verification_module, "_list_missing", lambda _: ["torch", "transformers"])
    with pytest.raises(UserError, match="verify: torch and transformers is not installed"):
        export_adaptation(adapt(chat_decoder), tmp_path / "out", verify=2)
    assert list(tmp_path.iterdir()) == []
    assert export_adaptation(
        adapt(chat_decoder), tmp_path / "out"
    ).is_dir()  # verified where it can be


def test_texts_that_rounding_changes_are_noted_in_the_readme(
    chat_decoder: PretrainedDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = updates(chat_decoder, "query", "key", "value", "up", "down")
    adaptation = adapt(made.merge_into(chat_decoder), lora_weights=made)
    folder = export_adaptation(adaptation, tmp_path / "narrow", dtype="bfloat16", verify=5)
    note = "Rounding the weights to the dtype of the files changes"
    assert note in (folder / "README.md").read_text() and note in caplog.text


def test_a_prompt_that_leaves_no_room_for_a_question_is_exported_with_a_note(
    chat_decoder: PretrainedDecoder, tmp_path: Path
) -> None:
    adaptation = adapt(chat_decoder)
    adaptation.prompt = replace(adaptation.prompt, instruction="Why? " * 200)
    folder = export_adaptation(adaptation, tmp_path / "out", verify=2)
    assert "No text was compared" in (folder / "README.md").read_text()


def test_a_decoder_that_says_nothing_is_not_exported(
    chat_decoder: PretrainedDecoder, tmp_path: Path
) -> None:
    decoder = nnx.clone(chat_decoder.decoder)
    decoder.norm.scale[...] = decoder.norm.scale[...].at[0].set(np.inf)
    with pytest.raises(UserError, match="the logits of .* are not finite"):
        export_adaptation(adapt(replace(chat_decoder, decoder=decoder)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tie_is_no_difference(chat_decoder: PretrainedDecoder) -> None:
    adaptation = adapt(chat_decoder, soft_prompt=soft(chat_decoder))
    tokens = tuple(chat_decoder.encode("What?"))
    logits = verification_module._compute_next_logits(adaptation, chat_decoder, tokens)
    best, second = np.argsort(logits)[[-1, -2]].tolist()
    one = verification_module.Replay("", (), tokens, (best, 9), "")
    assert logits[best] - logits[second] > 1e-3
    assert not verification_module._is_tie(adaptation, chat_decoder, one, [second, 9])
    assert verification_module._is_tie(adaptation, chat_decoder, one, [best, 9]) is False
    close = {"float32": float(logits[best] - logits[second]) + 1e-6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification_module, "MAX_TIE", close)
        assert verification_module._is_tie(adaptation, chat_decoder, one, [second, 9])


def test_the_readme_says_what_its_code_leaves_out(chat_decoder: PretrainedDecoder) -> None:
    sampled = GenerationConfig(candidates=5, temperature=0.7, top_k=40, min_p=0.1)
    text = build_readme(
        Adaptation("voted", Prompt(generation_config=sampled), chat_decoder), "hf", ["Note."]
    )
    assert "samples 5 candidates and takes their vote (rule `distinct`)" in text
    assert "do_sample=True" in text and "top_k=40" in text and "min_p=0.1" in text
    assert "\nNote.\n" in text
