"""Adaptations leave as folders that transformers loads, and tell how to ask."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from family_models import make
from peft_cases import ours, soft, theirs, updates
from safetensors.numpy import load_file
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.cli.main import main
from adapt_jax.pretrained.hf_folder import find_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.saving import parse_shard_size, save_pretrained
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.utils.errors import UserError

GENERATION = {"eos_token_id": [1, 7], "temperature": 0.6, "do_sample": True}


@pytest.fixture
def instruct(tmp_path: Path) -> PretrainedDecoder:
    """A decoder whose folder says how to generate and to chat."""
    folder = write_tiny_llama(tmp_path / "instruct", tie_word_embeddings=False)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return load_pretrained(folder)


def adapted(model: PretrainedDecoder, **more: Any) -> Adaptation:
    prompt = Prompt(instruction="Solve it.", generation_config=GenerationConfig(max_new_tokens=4))
    return Adaptation("lora", prompt, model, **more)


def test_merged_weights_leave_in_shards_with_all_that_belongs_to_them(
    instruct: PretrainedDecoder, tmp_path: Path
) -> None:
    made = updates(instruct, "query", "down")
    merged = made.merge_into(instruct)
    folder = export_adaptation(
        adapted(merged, lora_weights=made), tmp_path / "out", max_shard_size="70KB"
    )
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert files == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {name: file for file in files for name in load_file(folder / file)}
    assert index["weight_map"] == held and list(index["weight_map"]) == sorted(held)
    size = sum(a.nbytes for file in files for a in load_file(folder / file).values())
    assert index["metadata"]["total_size"] == size
    assert all((folder / file).stat().st_size < 71_000 for file in files)
    assert json.loads((folder / "generation_config.json").read_text()) == GENERATION
    assert "messages" in (folder / "chat_template.jinja").read_text()
    assert theirs(folder, None, merged) == ours(merged) != ours(instruct)
    again = load_pretrained(folder)
    assert again.fingerprint == merged.fingerprint and again.config.eos_ids == (1, 7)
    prompt = json.loads((folder / "prompt.json").read_text())
    assert prompt["instruction"] == "Solve it."
    text = r"text = 'Solve it.\n\nQ: ' + question + '\nA:'"
    assert text in (folder / "README.md").read_text()


def test_the_readme_quotes_foreign_text_and_its_code_runs(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    foreign = "a\x1b[31m\n# <script>b</script> [c](http://d) `"
    prompt = Prompt(
        instruction="```\n<img src=x>\n\"\"\"'''\\",
        generation_config=GenerationConfig(max_new_tokens=4),
    )
    adaptation = Adaptation(foreign, prompt, tiny)
    folder = export_adaptation(adaptation, tmp_path / "out", verify=0)
    text = (folder / "README.md").read_text()
    title, *rest = text.splitlines()
    assert title == "# `a\\x1b[31m # <script>b</script> [c](http://d) '`"
    fences = [line for line in rest if line.startswith("```")]
    assert "\x1b" not in text and fences == ["```python", "```"]
    code = text.partition("```python\n")[2].rpartition("\n```")[0]
    program = code.replace('"your question"', "'What is 2 + 3?'")
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    [candidate] = adaptation.ask("What is 2 + 3?").candidates
    assert ran.stdout == candidate.text + "\n"


def test_an_adapter_names_the_folder_of_its_decoder(tmp_path: Path) -> None:
    embedded = load_pretrained("embedded")
    made = updates(embedded, "query")
    adaptation = adapted(made.merge_into(embedded), lora_weights=made)
    folder = export_adaptation(adaptation, tmp_path / "out", format="peft", verify=0)
    name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(name) == find_folder("embedded").resolve()
    assert import_adapter(folder).model.fingerprint == adaptation.model.fingerprint


@pytest.mark.parametrize(
    "name", ["phi3", "gpt2", "gpt_neox", "gemma2", "mixtral", "qwen3_moe", "olmo2"]
)
def test_every_form_of_tensor_is_written_bit_exact(name: str, tmp_path: Path) -> None:
    import torch

    reference = make(tmp_path / "in", name)
    reference.to(torch.bfloat16).save_pretrained(tmp_path / "in")
    model = load_pretrained(tmp_path / "in", dtype=jnp.bfloat16)
    save_pretrained(model, tmp_path / "out", max_shard_size="20KB")
    written: dict[str, np.ndarray] = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        written |= load_file(file)
    original = load_file(tmp_path / "in" / "model.safetensors")
    assert {name for name in original if "rotary" not in name} == written.keys()
    assert all(np.array_equal(written[one], original[one]) for one in written)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    from transformers import AutoModelForCausalLM

    one, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path / side, dtype=torch.bfloat16)
        for side in ("in", "out")
    )
    ids = torch.tensor([[5, 9, 17, 30]])
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_saving_in_another_number_of_files_leaves_no_old_weights(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    other = load_pretrained(write_tiny_llama(tmp_path / "other", seed=3))
    save_pretrained(other, tmp_path / "out")
    save_pretrained(tiny, tmp_path / "out", max_shard_size="60KB")
    assert load_pretrained(tmp_path / "out").fingerprint == tiny.fingerprint
    save_pretrained(other, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").glob("model*")] == ["model.safetensors"]
    assert load_pretrained(tmp_path / "out").fingerprint == other.fingerprint


def test_sizes_of_shards_are_read_as_people_write_them() -> None:
    assert [parse_shard_size(s) for s in ("5GB", "1.5 mb", "2KiB", 77)] == [
        5 * 10**9,
        1500000,
        2048,
        77,
    ]
    for wrong in ("five", "0", "-3MB", ""):
        with pytest.raises(UserError, match="expected a size such as 5GB"):
            parse_shard_size(wrong)


def test_what_a_format_cannot_hold_is_reported(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for adaptation, options, said in (
        (adapted(tiny, soft_prompt=soft(tiny)), {"format": "hf"}, "weights cannot hold a soft"),
        (adapted(tiny), {"format": "peft"}, "nothing of it was trained"),
        (adapted(tiny, has_full_weights=True), {"format": "peft"}, "all its weights were trained"),
        (adapted(tiny), {"format": "gguf"}, "format 'gguf': expected one of hf, peft"),
        (adapted(tiny), {"dtype": "float23"}, "did you mean 'float32'"),
    ):
        with pytest.raises(UserError, match=said):
            export_adaptation(adaptation, out, **options)  # type: ignore[arg-type]
        assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        export_adaptation(adapted(tiny), out)


def test_an_export_is_not_written_twice_and_never_over_another(
    tiny: PretrainedDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation, folder = adapted(tiny), tmp_path / "exported"
    export_adaptation(adaptation, folder, verify=0)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert export_adaptation(adaptation, folder, verify=0) == folder
    assert "exported: this export is there already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    for other, options in (
        (replace(adaptation, prompt=Prompt(instruction="Another.")), {}),
        (replace(adaptation, method="chain_of_thought"), {}),
        (adaptation, {"dtype": "float16"}),
        (adaptation, {"max_shard_size": "20KB"}),
    ):
        with pytest.raises(UserError, match="exported: holds another export; choose a new folder"):
            export_adaptation(other, folder, verify=0, **options)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds this export, but files of it have changed"):
        export_adaptation(adaptation, folder, verify=0)
    (folder / "export.json").write_text("[]")
    with pytest.raises(UserError, match="holds another export"):
        export_adaptation(adaptation, folder, verify=0)


def test_the_commands_there_and_back(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    adaptation = adapted(tiny, soft_prompt=soft(tiny))
    adaptation.save(tmp_path / "saved")
    exported, back = str(tmp_path / "peft"), str(tmp_path / "back")
    assert main(["export", str(tmp_path / "saved"), exported]) == 0
    assert "how to ask" in capsys.readouterr().out
    assert theirs(tiny_folder, tmp_path / "peft", tiny) == ours(tiny, soft(tiny))
    assert main(["import", exported, "--decoder", str(tiny_folder), back]) == 0
    again = Adaptation.load(back)
    assert again.soft_prompt is not None and again.method == "prompt_tuning"
    np.testing.assert_array_equal(again.soft_prompt.embeddings[...], soft(tiny).embeddings[...])
    assert import_adapter(exported).model.fingerprint == tiny.fingerprint  # it names its decoder
    hf = str(tmp_path / "hf")
    assert main(["export", back, hf, "--format", "hf"]) == 2
    assert "weights cannot hold a soft prompt" in capsys.readouterr().err


def test_dtype_of_exported_weights(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    folder = export_adaptation(adapted(tiny), tmp_path / "out", dtype="bfloat16")
    held = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert held.dtype == jnp.bfloat16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def held_in(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    written: dict[str, np.ndarray] = {}
    for file in folder.glob("*.safetensors"):
        written |= load_file(file)
    return written


def test_weights_leave_in_the_dtype_that_their_decoder_is_stored_in(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = write_tiny_llama(tmp_path / "base")
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    reference.save_pretrained(base)
    model = load_pretrained(base)  # float32, as on every CPU
    adapted(model).save(tmp_path / "saved")
    out = tmp_path / "out"
    command = ["export", str(tmp_path / "saved"), str(out), "--max-shard-size", "40KB"]
    assert main(command) == 0
    assert "weights: bfloat16, as the decoder's own files; --dtype" in capsys.readouterr().out
    original, written = held_in(base), held_in(out)
    assert original.keys() == written.keys()
    assert all(one.dtype == jnp.bfloat16 for one in written.values())
    assert all(np.array_equal(written[name], original[name]) for name in original)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in original.values())
    again = AutoModelForCausalLM.from_pretrained(out)
    assert again.dtype == torch.bfloat16
    ids = torch.tensor([[5, 9, 17, 30]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, reference(ids).logits)


@pytest.mark.parametrize("kind", ["lora", "fine_tuning"])
def test_what_was_trained_leaves_in_that_dtype_too_unless_another_is_asked_for(
    kind: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = write_tiny_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    model = load_pretrained(base)
    made = updates(model, "query", "up")
    merged = made.merge_into(model)
    more = {"lora_weights": made} if kind == "lora" else {"has_full_weights": True}
    adapted(merged, **more).save(tmp_path / "saved")
    loaded = Adaptation.load(tmp_path / "saved")
    assert loaded.model.fingerprint == merged.fingerprint and loaded.source_dtype == "bfloat16"
    narrow = export_adaptation(loaded, tmp_path / "narrow")
    wide = export_adaptation(loaded, tmp_path / "wide", dtype="float32")
    assert load_pretrained(wide).fingerprint == merged.fingerprint
    exact, rounded = held_in(wide), held_in(narrow)
    for name, array in exact.items():
        assert array.dtype == np.float32 and rounded[name].dtype == jnp.bfloat16
        assert np.array_equal(array.astype(jnp.bfloat16), rounded[name])
    assert theirs(wide, None, merged) == ours(merged)
    assert AutoModelForCausalLM.from_pretrained(wide).dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(narrow).dtype == torch.bfloat16


# The hub


def cached(root: Path, name: str, commit: str, branch: str = "main") -> Path:
    """A model as huggingface_hub keeps it."""
    folder = root / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    return write_tiny_llama(folder / "snapshots" / commit, seed=len(branch))


def test_a_cached_model_is_found_by_name_and_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    first, second = "a" * 40, "b" * 40
    folders = [cached(tmp_path, "me/tiny", *one) for one in ((first, "main"), (second, "v2"))]
    assert find_folder("me/tiny") == folders[0]
    assert find_folder("me/tiny@v2") == find_folder("me/tiny", "v2") == folders[1]
    assert find_folder(f"me/tiny@{first}") == folders[0]
    model = load_pretrained("me/tiny", revision="v2")
    assert model.path == "me/tiny@v2"
    with pytest.raises(UserError, match="nor a model at revision 'v3' that can be fetched"):
        load_pretrained("me/tiny@v3")


def test_only_what_is_needed_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = write_tiny_llama(tmp_path)
    save_pretrained(load_pretrained(folder), folder, max_shard_size="60KB")
    asked: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_folder("me/tiny@v1") == folder
    small, weights = asked
    assert (
        (small["name"], small["revision"]) == ("me/tiny", "v1") == ("me/tiny", weights["revision"])
    )
    assert not any(
        pattern.endswith((".py", ".bin", ".safetensors")) for pattern in small["allow_patterns"]
    )
    assert weights["allow_patterns"] == sorted(f.name for f in folder.glob("*.safetensors"))
