"""What an adaptation keeps for its next process changes no answer and hides no mistake."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.adaptation import kept_files, storage
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.sampling import prefix_files
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.errors import UserError

QUESTION = "How many apples?"


@pytest.fixture
def saved(tiny_folder: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adaptation of a decoder whose files are old enough."""
    monkeypatch.delenv("ADAPT_JAX_PREFIX_CACHE_MIB", raising=False)
    monkeypatch.setattr(kept_files, "SECONDS_UNTIL_TRUSTED", -10)
    shown = (Demonstration("What is 1 + 1?", "2", "One and one more make 2."),)
    options = GenerationConfig(max_new_tokens=6, candidates=2, temperature=0.9)
    prompt = Prompt(Template(), "Solve it.", shown, True, generation_config=options)
    Adaptation("few_shot", prompt, tiny).save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every decoder whose weights are hashed."""
    counted: list[str] = []
    compute = PretrainedDecoder.__dict__["fingerprint"].func

    def count(self: PretrainedDecoder) -> str:
        counted.append(self.path)
        found: str = compute(self)
        return found

    monkeypatch.setattr(PretrainedDecoder.__dict__["fingerprint"], "func", count)
    return counted


def list_kept(folder: Path) -> list[str]:
    return sorted(one.name.partition("-")[0] for one in (folder / ".cache").iterdir())


def test_a_second_process_neither_hashes_weights_nor_encodes_the_prompt(
    saved: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
):
    first = Adaptation.load(saved).ask(QUESTION)
    assert list_kept(saved) == ["fingerprint.json", "prefix"] and len(hashed) == 1
    monkeypatch.setattr(prefix_files, "encode_prompt_prefix", None)
    second = Adaptation.load(saved)
    assert second.ask(QUESTION).candidates == first.candidates
    assert (
        len(hashed) == 1
        and second.model.fingerprint == load_pretrained(second.model.path).fingerprint
    )


def test_no_prompt_is_kept_whose_demonstrations_are_chosen_for_each_question(
    saved: Path, tiny: Any, tmp_path: Path
):
    pool = tuple(Demonstration(f"What is {n} + 1?", str(n + 1)) for n in range(6))
    prompt = Prompt(Template(), "Solve it.", retrieval=Retrieval(pool, count=1))
    Adaptation("few_shot", prompt, tiny).save(tmp_path / "chosen")
    Adaptation.load(tmp_path / "chosen").ask("What is 4 + 1?")
    assert list_kept(tmp_path / "chosen") == ["fingerprint.json"]


def test_it_can_be_turned_off(saved: Path, monkeypatch: pytest.MonkeyPatch):
    expected = Adaptation.load(saved).ask(QUESTION).candidates
    for file in (saved / ".cache").glob("prefix-*"):
        file.write_bytes(b"not even looked at")
    monkeypatch.setenv("ADAPT_JAX_PREFIX_CACHE_MIB", "0")
    assert Adaptation.load(saved).ask(QUESTION).candidates == expected
    for file in (saved / ".cache").iterdir():
        file.unlink()
    (saved / ".cache").rmdir()
    assert Adaptation.load(saved).ask(QUESTION).candidates == expected
    assert not (saved / ".cache").exists()


def test_decoders_in_memory_are_neither_trusted_nor_kept(saved: Path, tiny: Any):
    """They may have been trained since their fingerprint was computed."""
    Adaptation.load(saved, tiny).ask(QUESTION)
    assert not (saved / ".cache").exists()


def test_a_decoder_whose_file_was_replaced_is_refused(
    tiny: Any, make_tiny_llama: Any, saved: Path, tmp_path: Path
):
    """Even by one of the same size and time."""
    mine = make_tiny_llama(tmp_path / "mine")
    assert Adaptation.load(saved, mine).model.fingerprint == tiny.fingerprint
    assert list_kept(saved) == ["fingerprint.json"]
    weights = mine / "model.safetensors"
    before, other = weights.stat(), make_tiny_llama(tmp_path / "other", seed=5)
    weights.write_bytes((other / "model.safetensors").read_bytes())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    with pytest.raises(UserError, match="belongs to another decoder"):
        Adaptation.load(saved, mine)


def test_files_that_were_just_written_are_hashed_again(
    make_tiny_llama: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_files, "SECONDS_UNTIL_TRUSTED", 10)
    Adaptation.load(saved, make_tiny_llama(tmp_path / "mine"))
    assert not (saved / ".cache").exists()
    later = time.time() + 60
    monkeypatch.setattr(kept_files.time, "time", lambda: later)
    Adaptation.load(saved, tmp_path / "mine")
    assert list_kept(saved) == ["fingerprint.json"]


def test_files_that_change_while_they_are_read_are_hashed(
    make_tiny_llama: Any,
    saved: Path,
    tmp_path: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    mine, read = make_tiny_llama(tmp_path / "mine"), storage.load_pretrained

    def read_while_changed(*place: Any, **options: Any) -> PretrainedDecoder:
        model = read(*place, **options)
        os.utime(mine / "model.safetensors", ns=(0, len(hashed) * 10**9))
        return model

    with monkeypatch.context() as patch:
        patch.setattr(storage, "load_pretrained", read_while_changed)
        Adaptation.load(saved, mine)
    assert not (saved / ".cache").exists()
    Adaptation.load(saved, mine)
    assert list_kept(saved) == ["fingerprint.json"] and len(hashed) == 2
    with monkeypatch.context() as patch:
        patch.setattr(storage, "load_pretrained", read_while_changed)
        Adaptation.load(saved, mine)
    assert len(hashed) == 3


@pytest.mark.parametrize("key", ["version", "shape", "dtype", "code", "files"])
def test_a_record_of_something_else_is_not_used(key: str, saved: Path, hashed: list[str]):
    Adaptation.load(saved)
    record = saved / ".cache" / "fingerprint.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {key: "another", "fingerprint": "0" * 16}))
    Adaptation.load(saved)
    assert len(hashed) == 2 and json.loads(record.read_text()) == content


@pytest.mark.parametrize("content", ["", "[1]", '{"fingerprint": 3}', "\x00"])
def test_a_damaged_record_is_written_anew(content: str, saved: Path, hashed: list[str]):
    Adaptation.load(saved)
    record = saved / ".cache" / "fingerprint.json"
    expected = record.read_text()
    record.write_text(content)
    Adaptation.load(saved)
    assert len(hashed) == 2 and record.read_text() == expected


def test_a_folder_that_cannot_be_written_keeps_nothing(saved: Path):
    (saved / ".cache").write_text("a file in its place")
    assert Adaptation.load(saved).ask(QUESTION).candidates


@pytest.mark.parametrize("kind", ["lora_weights", "has_full_weights"])
def test_tuned_weights_have_prefixes_of_their_own(
    kind: str, saved: Path, tiny: Any, tmp_path: Path
):
    from peft_cases import updates

    plain = Adaptation.load(saved)
    plain.ask(QUESTION)
    made = updates(tiny, "query")
    more: dict[str, Any] = {"lora_weights": made, "has_full_weights": True}
    tuned = Adaptation("lora", plain.prompt, made.merge_into(tiny), **{kind: more[kind]})
    expected = tuned.ask(QUESTION).candidates
    tuned.save(tmp_path / "tuned")
    (tmp_path / "tuned" / ".cache").mkdir()
    for file in (saved / ".cache").glob("prefix-*"):  # of the decoder without them
        (tmp_path / "tuned" / ".cache" / file.name).write_bytes(file.read_bytes())
    for _ in range(2):
        assert Adaptation.load(tmp_path / "tuned").ask(QUESTION).candidates == expected
    assert len(list((tmp_path / "tuned" / ".cache").glob("prefix-*"))) == 2
