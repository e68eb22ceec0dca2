"""What ends an answer, and what a decoder's fingerprint and identity cover."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file, save_file
from tiny_llama import write_tiny_llama

from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.saving import save_pretrained

PLAIN_CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|pad|>{% endif %}\n{% endfor %}"
)


def rewrite(file: Path, **changes: Any) -> None:
    """A JSON file with other fields; one that is Ellipsis is left out."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    content = {k: v for k, v in (content | changes).items() if v is not ...}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "template", "expected"),
    [
        (1, None, "<|eos|>", None, (1,)),
        (7, None, "<|eos|>", None, (7, 1)),
        (7, [9, 8], "<|eos|>", None, (9, 8, 7, 1)),
        (7, 9, ..., CHAT, (9, 7, 2)),
        (None, None, "<|eos|>", CHAT, (1, 2)),
        (None, None, ..., None, ()),
        (..., None, "<|eos|>", None, (1,)),  # the family's default, 2, is not what a file says
        (..., None, ..., None, (2,)),
        (..., 9, "<|eos|>", None, (9, 1)),
        ([1, 400, -1], None, "<|eos|>", PLAIN_CHAT, (1,)),  # there are 320 tokens
    ],
)
def test_eos_is_the_union_of_what_all_files_say(
    config: Any, generation: Any, tokenizer: Any, template: Any, expected: Any, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path)
    rewrite(folder / "config.json", eos_token_id=config)
    rewrite(folder / "tokenizer_config.json", eos_token=tokenizer)
    if generation is not None:
        rewrite(folder / "generation_config.json", eos_token_id=generation)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    model = load_pretrained(folder)
    assert model.config.eos_ids == expected
    save_pretrained(model, tmp_path / "saved")
    again = load_pretrained(tmp_path / "saved")
    assert again.config.eos_ids == expected
    assert (again.fingerprint, again.identity) == (model.fingerprint, model.identity)


def test_transformers_stops_at_the_same_tokens_in_a_saved_folder(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    folder = write_tiny_llama(tmp_path / "a")
    rewrite(folder / "generation_config.json", eos_token_id=7, temperature=0.5, do_sample=True)
    (folder / "chat_template.jinja").write_text(CHAT)
    model = load_pretrained(folder)
    save_pretrained(model, tmp_path / "b")
    said = GenerationConfig.from_pretrained(tmp_path / "b")
    assert tuple(said.eos_token_id) == model.config.eos_ids == (7, 1, 2)
    assert said.temperature == 0.5


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors")


def change_vocabulary(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def drop_bos(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


CHANGES: dict[str, tuple[Callable[[Path], None], bool, bool]] = {  # fingerprint, identity change
    "weights": (change_weights, True, True),
    "config": (lambda f: rewrite(f / "config.json", rope_theta=500.0), True, True),
    "vocabulary": (change_vocabulary, False, True),
    "BOS": (drop_bos, False, True),
    "chat template": (lambda f: (f / "chat_template.jinja").write_text(PLAIN_CHAT), False, True),
    "EOS": (lambda f: rewrite(f / "generation_config.json", eos_token_id=9), False, True),
    "EOS of the tokenizer": (
        lambda f: rewrite(f / "tokenizer_config.json", eos_token="<|pad|>"),
        False,
        True,
    ),
    "a file that says nothing": (lambda f: (f / "README.md").write_text("x"), False, False),
    "EOS as it was": (
        lambda f: rewrite(f / "generation_config.json", eos_token_id=1),
        False,
        False,
    ),
    "a field that nothing reads": (lambda f: rewrite(f / "config.json", note="x"), False, False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_identity_changes_with_what_answers_depend_on(
    name: str, tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    change, fingerprint, identity = CHANGES[name]
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    model = load_pretrained(tmp_path)
    assert (model.fingerprint != tiny.fingerprint) == fingerprint
    assert (model.identity != tiny.identity) == identity
    assert len(model.identity) == len(model.fingerprint) == 16


def test_identity_needs_no_folder_and_does_not_change_with_use(tiny: PretrainedDecoder) -> None:
    """As for a decoder that was made in memory."""
    other = replace(tiny, path="")
    before = other.identity
    other.encode("<|eos|>")
    other.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=3)
    assert replace(tiny, path="elsewhere").identity == before == tiny.identity


def test_the_dtype_of_the_computation_belongs_to_the_identity_alone(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "a")
    save_pretrained(load_pretrained(folder), tmp_path / "b", dtype=jnp.bfloat16)
    wide = load_pretrained(tmp_path / "b")
    narrow = load_pretrained(tmp_path / "b", dtype=jnp.bfloat16)
    assert wide.fingerprint == narrow.fingerprint and wide.identity != narrow.identity


def test_a_fingerprint_does_not_change_with_the_texts_of_classes(
    tiny: PretrainedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = replace(tiny).fingerprint
    for one in (type(tiny.config), type(tiny.config.layer_config(0))):
        monkeypatch.setattr(one, "__repr__", lambda self: "changed")
    assert replace(tiny).fingerprint == expected
