"""README.md of an exported folder: the code that asks it as ``Adaptation.ask`` does."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.pretrained.control_tokens import remove_marks
from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.hf_folder import find_folder
from adapt_jax.pretrained.peft.modules import find_text_module
from adapt_jax.pretrained.tokenization import find_leading_tokens
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.answers import shorten_parser_name
from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.templates.wordings import is_jinja
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError

__all__ = ["build_readme", "build_recipe"]

MARK = "adaptjaxquestion"  # stands for the question while the text around it is found


def build_readme(adaptation: Adaptation, format: str, notes: Sequence[str] = ()) -> str:
    """The README of an exported folder: the base model, how to ask, and the limits of the code."""
    prompt, soft_prompt = adaptation.prompt, adaptation.soft_prompt
    about = [
        f"# {_quote(adaptation.method)}",
        "",
        f"An adaptation of {_quote(adaptation.model.path)} by adapt_jax.",
    ]
    if soft_prompt is not None:
        about.append(
            f"The soft prompt of {len(soft_prompt)} embeddings is prepended to all tokens, BOS "
            "included. With a key-value cache PEFT generates another text than its own forward "
            "pass (PEFT 0.21, transformers 5.24), so `use_cache=False`."
        )
    if prompt.generation_config.candidates > 1:
        about.append(
            f"adapt_jax samples {prompt.generation_config.candidates} candidates and takes their "
            f"vote (rule {_quote(prompt.vote)}); the code below samples one."
        )
    if prompt.multiple_choice is not None:
        about.append(
            "adapt_jax chooses among the given choices by their log-likelihood; the code below "
            "generates an answer instead."
        )
    parser = _quote(shorten_parser_name(prompt.parser))
    about.append(
        f"The answer is read from the text by the parser {parser}; prompt.json holds the whole "
        "prompt."
    )
    about += notes
    # the code holds foreign text as Python literals without line breaks, which close no fence
    code = build_recipe(adaptation, format) + '\n\nprint(ask("your question"))'
    return "\n".join([*about, "", "```python", code, "```", ""])


def _quote(text: str) -> str:
    """Foreign text as code in Markdown, where neither markup nor HTML is read."""
    shown = display_text(text).replace("`", "'")
    return f"`{shown}`"


def build_recipe(
    adaptation: Adaptation,
    format: str,
    *,
    folder: str = ".",
    decoding: GenerationConfig | None = None,
) -> str:
    """Python source that loads an exported folder and defines ``ask(question, choices=())``.

    It asks by three functions: ``encode`` gives the token ids of all text before the answer,
    ``generate`` those of the answer, ``decode`` the answer's text.

    Args:
        folder: where the exported folder is.
        decoding: in the place of the prompt's own.
    """
    prompt, model = adaptation.prompt, adaptation.model
    decoding = decoding or prompt.generation_config
    dtype = str(model.decoder.embedding[...].dtype)
    source = "folder" if format == "hf" else _name_decoder(model.path)
    eos = sorted(model.config.eos_ids)
    is_inside = format == "peft" and bool(find_text_module(model.path))
    kind = "AutoModelForImageTextToText" if is_inside else "AutoModelForCausalLM"
    lines = ["import torch"]
    lines += ["from peft import PeftModel"] if format == "peft" else []
    lines += [
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f"folder = {json.dumps(folder)}  # where this file is",
        f"tokenizer = AutoTokenizer.from_pretrained({source})",
        f'model = {kind}.from_pretrained({source}, dtype="{dtype}")',
    ]
    lines += ["model = PeftModel.from_pretrained(model, folder)"] if format == "peft" else []
    lines += [f"stop, eos = {list(decoding.stop)!r}, {eos!r}"]
    lines += ["", "", *_define_encode(adaptation)]
    lines += ["", "", "def generate(question, choices=()):"]
    lines += ["    input_ids = torch.tensor([encode(question, choices)])"]
    lines += ["    output = model.generate("]
    options = _list_generate_options(adaptation, decoding)
    lines += [f"        {name}={value}," for name, value in options.items()]
    lines += [
        "    )",
        "    return output[0, input_ids.shape[1] :].tolist()",
        "",
        "",
        "def decode(ids):",
        "    ids = [token for token in ids if token not in eos]",
        "    text = tokenizer.decode(",
        "        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False",
        "    )",
        "    for string in stop:",
        "        text = text.partition(string)[0]",
        "    return text",
        "",
        "",
        "def ask(question, choices=()):",
        "    return decode(generate(question, choices))",
    ]
    return "\n".join(lines)


def _list_generate_options(adaptation: Adaptation, decoding: GenerationConfig) -> dict[str, Any]:
    """The arguments of ``model.generate``, as source text where they are no plain values."""
    options = {
        "input_ids": "input_ids",
        "attention_mask": "torch.ones_like(input_ids)",
        "max_new_tokens": decoding.max_new_tokens,
        **_list_sampling_options(decoding),
    }
    if adaptation.model.config.eos_ids:
        # the first of the EOS tokens pads, so that transformers need not guess a padding token
        options |= {"eos_token_id": "eos", "pad_token_id": "eos[0]"}
    if decoding.stop:
        options |= {"stop_strings": "stop", "tokenizer": "tokenizer"}
    if adaptation.soft_prompt is not None:
        options |= {"use_cache": False}
    return options


def _define_encode(adaptation: Adaptation) -> list[str]:
    """The lines of ``encode(question, choices)``: token ids of all text before the answer."""
    prompt, model = adaptation.prompt, adaptation.model
    template = prompt.template
    before, after, is_stripped = _split_prompt_text(adaptation)
    lines = ["def encode(question, choices=()):"]
    if template.choice:
        lines += [
            f"    for letter, choice in zip({LETTERS!r}, choices):",
            f'        line = {template.choice!r}.replace("{{letter}}", letter)',
            '        question += line.replace("{choice}", choice)',
        ]
    question = "question.strip()" if is_stripped else "question"
    lines += [f"    text = {before!r} + {question} + {after!r}"]
    if template.chat:  # the chat template writes BOS and its control tokens itself
        return [
            *lines,
            '    return tokenizer(text, add_special_tokens=False)["input_ids"]',
        ]
    start = find_leading_tokens(model.tokenizer)
    return [
        *lines,
        "    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)",
        f'    return {start} + ids["input_ids"]' if start else '    return ids["input_ids"]',
    ]


def _split_prompt_text(adaptation: Adaptation) -> tuple[str, str, bool]:
    """The text before and after the question, and whether a chat template strips the question."""
    prompt, model = adaptation.prompt, adaptation.model
    if is_jinja(re.sub(r"\{\{ *question *\}\}", "", prompt.template.question)):
        raise UserError(
            "template.question is a Jinja template, and the code of an export only puts a question "
            "between fixed words; save the adaptation and ask it by `adapt-jax predict`"
        )
    text = prompt.render_prompt(model, prompt.template.format_question(f" {MARK} "))
    is_stripped = f" {MARK} " not in text
    before, *after = text.split(MARK if is_stripped else f" {MARK} ")
    if len(after) != 1:
        raise UserError(
            f"the chat template of {model.path} repeats or changes the question, so no code can "
            "be given that asks as adapt_jax does"
        )
    return remove_marks(before), remove_marks(after[0]), is_stripped


def _name_decoder(path: str) -> str:
    """The arguments of ``from_pretrained`` for the decoder that an adapter belongs to."""
    local = Path(path).expanduser()
    if is_gguf(local) and local.is_file():
        return f"{str(local.resolve().parent)!r}, gguf_file={local.name!r}"
    if path == "embedded" or local.is_dir():
        return repr(str(find_folder(path).resolve()))
    name, _, revision = path.partition("@")
    return f"{name!r}, revision={revision!r}" if revision else repr(name)


def _list_sampling_options(decoding: GenerationConfig) -> dict[str, Any]:
    """All options that generation_config.json of the decoder could set otherwise."""
    options: dict[str, Any] = {"do_sample": decoding.temperature > 0}
    if decoding.temperature > 0:
        options |= {
            "temperature": decoding.temperature,
            "top_k": decoding.top_k,
            "top_p": decoding.top_p,
        }
        options |= {"min_p": decoding.min_p} if decoding.min_p else {}
    return options | {"num_beams": 1, "repetition_penalty": float(decoding.repetition_penalty)}
