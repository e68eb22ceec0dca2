"""The identity of an adaptation: all that its answers depend on, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.prompting.voting import VOTES
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.errors import UserError

CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
EMBEDDINGS = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)


def write_decoder(folder: Path, **more: Any) -> Path:
    write_tiny_llama(folder, tie_word_embeddings=False, **more)
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1]}))
    return folder


def adapt(model: PretrainedDecoder) -> Adaptation:
    shown = (Demonstration("What is 1 + 1?", "2", "One and one more make 2."),)
    sampled = GenerationConfig(max_new_tokens=8, candidates=2, temperature=0.9)
    prompt = Prompt(Template(), "Solve it.", shown, True, generation_config=sampled)
    return Adaptation("few_shot", prompt, model, SoftPrompt(jnp.asarray(EMBEDDINGS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("identity") / "decoder")


@pytest.fixture(scope="module")
def model(folder: Path) -> PretrainedDecoder:
    return load_pretrained(folder)


def edit_json(name: str, **values: Any) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return edit


def drop_merges(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: write_decoder(folder, seed=1),
        edit_json("config.json", rope_theta=20000.0),
        edit_json("config.json", rms_norm_eps=1e-6),
        edit_json("generation_config.json", eos_token_id=[1, 7]),
        edit_json("tokenizer_config.json", bos_token=None),
        drop_merges,
        lambda folder: (folder / "chat_template.jinja").write_text(CHAT + " "),
    ],
    ids=["weights", "config", "config", "generation config", "special tokens", "tokenizer", "chat"],
)
def test_a_file_of_the_decoder_that_changes_gives_another_identity(
    model: PretrainedDecoder, tmp_path: Path, edit: Callable[[Path], Any]
):
    edit(write_decoder(tmp_path / "edited"))
    assert adapt(load_pretrained(tmp_path / "edited")).identity != adapt(model).identity


PROMPTS: dict[str, Any] = {
    "template": Template(question="Question: {question}\nA:"),
    "instruction": "Solve it!",
    "demonstrations": (Demonstration("What is 1 + 2?", "3", "One and two make 3."),),
    "reasoning": False,
    "parser": "text",
    "vote": "majority",
    "stop_at": 0.9,
    "multiple_choice": MultipleChoiceConfig(choices=("yes", "no")),
    "retrieval": Retrieval((Demonstration("What is 1 + 2?", "3"),), count=1),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_part_of_the_prompt_that_changes_gives_another_identity(model, name: str):
    one = adapt(model)
    other = replace(one, prompt=replace(one.prompt, **{name: PROMPTS[name]}))
    assert other.identity != one.identity


GENERATION: dict[str, Any] = {
    "max_new_tokens": 9,
    "temperature": 0.8,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "candidates": 3,
    "stop": ("\n",),
}


@pytest.mark.parametrize("name", GENERATION)
def test_a_generation_setting_that_changes_gives_another_identity(model, name: str):
    one = adapt(model)
    config = replace(one.prompt.generation_config, **{name: GENERATION[name]})
    assert replace(one, prompt=replace(one.prompt, generation_config=config)).identity != (
        one.identity
    )


def test_every_field_of_the_prompt_is_tried_above():
    assert set(Prompt.__dataclass_fields__) == {*PROMPTS, "generation_config"}
    assert set(GenerationConfig.__dataclass_fields__) == set(GENERATION)


@pytest.mark.parametrize(
    "soft_prompt",
    [
        None,
        SoftPrompt(jnp.asarray(EMBEDDINGS), before_bos=False),
        SoftPrompt(jnp.asarray(np.nextafter(EMBEDDINGS, np.float32(9)))),
        SoftPrompt(jnp.asarray(EMBEDDINGS[:3])),
        SoftPrompt(jnp.asarray(EMBEDDINGS.reshape(2, 2, 32))),
    ],
)
def test_a_soft_prompt_that_changes_gives_another_identity(model, soft_prompt):
    assert replace(adapt(model), soft_prompt=soft_prompt).identity != adapt(model).identity


@pytest.mark.parametrize(("table", "name"), [(PARSERS, "number"), (VOTES, "distinct")])
def test_a_parser_or_vote_of_another_version_gives_another_identity(
    model, table, name: str, monkeypatch: pytest.MonkeyPatch
):
    before = adapt(model).identity
    monkeypatch.setattr(table[name], "version", 99, raising=False)
    assert adapt(model).identity != before


def test_the_dtype_that_is_computed_in_gives_another_identity(model, folder: Path):
    narrow = load_pretrained(folder, dtype=jnp.bfloat16)
    assert adapt(narrow).identity != adapt(model).identity


def test_what_has_no_effect_on_answers_changes_no_identity(model, folder: Path, tmp_path: Path):
    expected = adapt(model).identity
    moved = write_decoder(tmp_path / "moved")
    assert adapt(load_pretrained(moved)).identity == expected
    on_mesh = load_pretrained(folder, mesh=make_mesh(data=2, fsdp=2, tensor=2))
    assert adapt(on_mesh).identity == expected
    adaptation = adapt(model)
    adaptation.ask("How many?")
    adaptation.save(tmp_path / "saved")
    assert adaptation.identity == Adaptation.load(tmp_path / "saved").identity == expected
    renamed = replace(adaptation, method="mine", source_dtype="bfloat16", folder=None)
    assert renamed.identity == expected


def test_renaming_a_class_changes_no_identity(folder: Path):
    before = adapt(load_pretrained(folder)).identity
    kinds = (Prompt, Template, Demonstration, GenerationConfig, SoftPrompt, DecoderConfig)
    names = [(kind.__name__, kind.__qualname__, kind.__module__) for kind in kinds]
    try:
        for kind in kinds:
            kind.__name__, kind.__qualname__ = f"{kind.__name__}Renamed", "Elsewhere.Renamed"
            kind.__module__ = "elsewhere"
        assert adapt(load_pretrained(folder)).identity == before
    finally:
        for kind, (name, qualname, module) in zip(kinds, names, strict=True):
            kind.__name__, kind.__qualname__, kind.__module__ = name, qualname, module


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: (folder / "chat_template.jinja").write_text(CHAT + " "),
        edit_json("generation_config.json", eos_token_id=[1, 7]),
        drop_merges,
    ],
)
def test_a_decoder_whose_tokenizer_was_edited_is_refused(tmp_path: Path, edit):
    folder = write_decoder(tmp_path / "decoder")
    adapt(load_pretrained(folder)).save(tmp_path / "saved")
    Adaptation.load(tmp_path / "saved")
    edit(folder)
    with pytest.raises(UserError, match="saved: the tokenizer, chat template or EOS .* changed"):
        Adaptation.load(tmp_path / "saved")
