"""PEFT's folders: what leaves is loaded by the real PEFT, what it wrote comes in."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import make
from peft_cases import ours, soft, theirs, updates
from safetensors.numpy import load_file, save_file
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from adapt_jax.pretrained.peft_writing import write_lora, write_soft_prompt
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.utils.errors import UserError


def test_a_soft_prompt_leaves_and_peft_says_the_same(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    write_soft_prompt(tmp_path, soft(tiny), tiny)
    expected = ours(tiny, soft(tiny))
    assert expected != ours(tiny)
    assert theirs(tiny_folder, tmp_path, tiny) == expected
    again = read_adapter(tmp_path, tiny).soft_prompt
    assert again is not None and again.before_bos
    np.testing.assert_array_equal(again.embeddings[...], soft(tiny).embeddings[...])
    text = (tmp_path / ADAPTER_CONFIG).read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert config["base_model_name_or_path"] == str(tiny_folder) and config["token_dim"] == 32


def test_a_soft_prompt_behind_bos_cannot_leave(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    behind = SoftPrompt(soft(tiny).embeddings[...], before_bos=False)
    with pytest.raises(UserError, match="behind BOS; PEFT puts every soft prompt before it"):
        write_soft_prompt(tmp_path, behind, tiny)


@pytest.mark.parametrize("stabilized", [False, True])
def test_low_rank_updates_leave_and_peft_says_the_same(
    stabilized: bool, tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made = updates(tiny, "query", "output", "down", stabilized=stabilized)
    write_lora(tmp_path, made, tiny)
    expected = ours(made.merge_into(tiny))
    assert expected != ours(tiny)
    assert theirs(tiny_folder, tmp_path, tiny) == expected
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 6, stabilized)
    again = read_adapter(tmp_path, tiny).lora_weights
    assert again is not None
    assert again.merge_into(tiny).fingerprint == made.merge_into(tiny).fingerprint


def test_ranks_and_alphas_of_their_own_stand_in_patterns(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made, other = updates(tiny, "query", "key"), updates(tiny, "up", rank=2)
    odd = next(iter(other.factors))
    both = LoRAWeights({**made.factors, odd: other.factors[odd]}, tiny.fingerprint)
    first = next(iter(made.factors))
    louder = LoRAFactors(both.factors[first].a, both.factors[first].b, 12.0)
    both = LoRAWeights({**both.factors, first: louder}, tiny.fingerprint)
    write_lora(tmp_path, both, tiny)
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert list(config["rank_pattern"].values()) == [2]
    assert list(config["alpha_pattern"].values()) == [12]
    assert theirs(tiny_folder, tmp_path, tiny) == ours(both.merge_into(tiny))
    again = read_adapter(tmp_path, tiny).lora_weights
    assert (
        again is not None
        and again.merge_into(tiny).fingerprint == both.merge_into(tiny).fingerprint
    )


def peft_adapter(folder: Path, to: Path, **options: Any) -> None:
    """An adapter that the real PEFT made, with random factors."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"]} | options
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(str(to))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 5}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.1\.(self_attn|mlp)\.(k|gate)_proj"},
        {"layers_to_transform": [1], "modules_to_save": ["norm"]},
        {"layers_to_transform": 0, "layers_pattern": ["blocks", "layers"]},
    ],
    ids=["plain", "patterns", "all-linear", "expression", "a layer and a norm", "layers' name"],
)
def test_an_adapter_that_peft_made_comes_in_and_says_the_same(
    options: dict[str, Any], tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    peft_adapter(tiny_folder, tmp_path / "adapter", **options)
    adaptation = import_adapter(tmp_path / "adapter", tiny)
    expected = theirs(tiny_folder, tmp_path / "adapter", tiny)
    assert ours(adaptation.model) == expected != ours(tiny)


def test_biases_that_peft_trained_come_in(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "base", attention_bias=True)
    model = load_pretrained(folder)
    peft_adapter(folder, tmp_path / "adapter", bias="all")
    adaptation = import_adapter(tmp_path / "adapter", model)
    assert adaptation.has_full_weights and adaptation.lora_weights is None
    assert ours(adaptation.model) == theirs(folder, tmp_path / "adapter", model)


def test_prompt_tuning_that_peft_made_comes_in(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    adaptation = import_adapter(tmp_path / "adapter", tiny)
    assert adaptation.soft_prompt is not None and len(adaptation.soft_prompt) == 6
    expected = theirs(tiny_folder, tmp_path / "adapter", tiny)
    assert ours(tiny, adaptation.soft_prompt) == expected


def tampered(folder: Path, config: dict[str, Any], tensors: Any = None) -> None:
    told = json.loads((folder / ADAPTER_CONFIG).read_text()) | config
    (folder / ADAPTER_CONFIG).write_text(json.dumps(told))
    if tensors is not None:
        held = load_file(folder / ADAPTER_WEIGHTS)
        tensors(held)
        save_file(held, folder / ADAPTER_WEIGHTS)


QUERY = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"peft_type": "IA3"}, None, "peft_type 'IA3' is not supported; supported: PROMPT_T"),
        ({"use_dora": True}, None, "use_dora True"),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights 'pissa' changes the decoder"),
        ({"r": 4}, None, r"lora_A is \[3, 32\] and lora_B \[32, 3\], expected \[4, 32\]"),
        ({"lora_alpha": float("nan")}, None, "lora_alpha: expected a number from .*, found nan"),
        ({"target_modules": "["}, None, r"'\[' is no regular expression"),
        ({"rank_pattern": {"q(": 3}}, None, "is no regular expression"),
        (
            {"layers_to_transform": [1]},
            None,
            r"layers\.0.*layers_to_transform leaves its layer out",
        ),
        (
            {"layers_to_transform": [0], "layers_pattern": "layers"},
            None,
            r"layers\.1.*layers_to_transform leaves its layer out",
        ),
        (
            {"layers_to_transform": [0, 1], "layers_pattern": "blocks"},
            None,
            r"layers\.0.*layers_to_transform leaves its layer out",
        ),
        ({}, lambda t: t[QUERY + "lora_A.weight"].fill(np.nan), "not finite: .*lora_A"),
        ({"target_modules": ["v_proj"]}, None, "layers.1.self_attn.q_proj: has factors, but"),
        ({}, lambda t: t.pop(QUERY + "lora_B.weight"), "q_proj: has lora_A alone"),
        ({}, lambda t: t.update({QUERY + "gate": t.popitem()[1]}), "q_proj.gate: no parameter"),
        (
            {},
            lambda t: t.update({QUERY + "lora_embedding_A": np.ones((2, 2), np.float32)}),
            "lora_embedding_A: no parameter",
        ),
        (
            {},
            lambda t: t.update(
                {"base_model.model.model.embed_tokens.weight": np.ones((320, 32), np.float32)}
            ),
            "embed_tokens.weight: was trained apart from the output that is tied",
        ),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    config: dict[str, Any], tensors: Any, said: str, tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tampered(tmp_path, config, tensors)
    with pytest.raises(UserError, match=said) as caught:
        read_adapter(tmp_path, tiny)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "module." + name,
        lambda name: "_orig_mod." + name,
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
        lambda name: name.replace("base_model.model.", "base_model.model.module."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ".my_adapter.weight"),
        lambda name: name.removeprefix("base_model.model."),
    ],
)
def test_names_that_wrappers_have_changed_are_read(
    rename: Any, tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    made = updates(tiny, "query")
    write_lora(tmp_path, made, tiny)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    save_file({rename(name): one for name, one in tensors.items()}, tmp_path / ADAPTER_WEIGHTS)
    again = read_adapter(tmp_path, tiny).lora_weights
    assert again is not None and again.factors.keys() == made.factors.keys()
    for path, factors in made.factors.items():
        np.testing.assert_array_equal(again.factors[path].b, factors.b)


def test_several_adapters_in_one_file_are_refused(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    both = {
        name.replace(".weight", f".{adapter}.weight"): one
        for name, one in tensors.items()
        for adapter in ("a", "b")
    }
    save_file(both, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(UserError, match=r"holds several adapters \(a, b\)"):
        read_adapter(tmp_path, tiny)


def test_an_adapter_in_a_subfolder_is_named(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    write_lora(tmp_path / "checkpoint-10", updates(tiny, "query"), tiny)
    with pytest.raises(UserError, match=r"expected a PEFT folder; found adapters in .*point-10"):
        read_adapter(tmp_path, tiny)
    with pytest.raises(UserError, match="found adapters in"):
        import_adapter(tmp_path)


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_saved_embeddings_that_equal_a_tied_decoders_are_imported(
    kind: str, tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    """As PEFT writes them with save_embedding_layers=True."""
    prefix = "base_model.model." if kind == "lora" else "base_model."
    if kind == "lora":
        write_lora(tmp_path, updates(tiny, "query"), tiny)
    else:
        write_soft_prompt(tmp_path, soft(tiny), tiny)
    embedding = np.array(tiny.decoder.embedding[...])
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    tensors |= {
        prefix + name: embedding for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    save_file(tensors, tmp_path / ADAPTER_WEIGHTS)
    adapter = read_adapter(tmp_path, tiny)
    assert not adapter.replaced and (adapter.lora_weights or adapter.soft_prompt)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        save_file(tensors | {prefix + name: embedding + 1}, tmp_path / ADAPTER_WEIGHTS)
        with pytest.raises(UserError, match=f"{name}: was trained apart from the output"):
            read_adapter(tmp_path, tiny)


def test_the_adapters_that_peft_wrote_with_tied_embeddings_are_imported(shared: Path) -> None:
    model = load_pretrained(shared / "models" / "stories260k")
    for name in ("embed_true", "prompt_embed_true"):
        adapter = read_adapter(shared / "cases" / "peft_tied_embeddings" / name, model)
        assert not adapter.replaced and (adapter.lora_weights or adapter.soft_prompt)


def test_no_layers_to_transform_means_no_limit(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tampered(tmp_path, {"layers_to_transform": []})
    again = read_adapter(tmp_path, tiny).lora_weights
    assert again is not None and len(again.factors) == 2
    assert theirs(tiny_folder, tmp_path, tiny) == ours(again.merge_into(tiny))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"modules_to_save": ["norm"]},
            "modules_to_save names 'norm', of which there is no tensor",
        ),
        ({"use_rslora": "no"}, "use_rslora: expected true or false, found 'no'"),
        ({"r": 10**9}, "r: expected a whole number from 1 to 65536, found 1000000000"),
        ({"rank_pattern": {"q_proj": "3"}}, "rank_pattern: expected ranks by module"),
        ({"lora_alpha": [1]}, "lora_alpha: expected a number"),
        ({"target_modules": [1]}, "target_modules: expected a text or a list of texts"),
        ({"layers_to_transform": {"a": 1}}, "layers_to_transform: expected layers"),
        ({"bias": "some"}, "bias: expected none, all or lora_only"),
        ({"peft_type": ["LORA"]}, r"peft_type \['LORA'\] is not supported"),
        ({"target_modules": r"(.*?.*?)*(?<!j)"}, "the regular expression .* takes too long"),
        ({"rank_pattern": {"(.*?.*?)*(?<!j)": 3}}, "the regular expression .* takes too long"),
    ],
)
def test_options_of_another_type_or_without_end_are_refused(
    config: dict[str, Any], said: str, tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tampered(tmp_path, config)
    started = time.process_time()
    with pytest.raises(UserError, match=said):
        read_adapter(tmp_path, tiny)
    assert time.process_time() - started < 10


def test_unknown_options_are_refused_for_prompt_tuning_too(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    write_soft_prompt(tmp_path, soft(tiny), tiny)
    tampered(tmp_path, {"prompt_tuning_scale": 2.0, "unset": None})
    with pytest.raises(UserError, match=r"prompt_tuning_scale 2\.0") as caught:
        read_adapter(tmp_path, tiny)
    assert "unset" not in str(caught.value)


def test_nothing_is_fetched_because_an_adapter_names_it(
    tiny: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    write_lora(tmp_path, updates(tiny, "query"), tiny)
    tampered(tmp_path, {"base_model_name_or_path": "owner/name", "revision": "main"})
    with pytest.raises(UserError, match="if you trust it, give --decoder owner/name@main"):
        import_adapter(tmp_path)


def test_a_pickled_or_absent_or_damaged_adapter_is_named(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path, tiny)
    write_soft_prompt(tmp_path, soft(tiny), tiny)
    whole = (tmp_path / ADAPTER_WEIGHTS).read_bytes()
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(whole[:-7])
    with pytest.raises(UserError, match="cut short"):
        read_adapter(tmp_path, tiny)
    (tmp_path / ADAPTER_WEIGHTS).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is pickled, so it is never opened"):
        read_adapter(tmp_path, tiny)


def test_an_adaptation_by_lora_saves_factors_and_answers_as_before(
    tiny: PretrainedDecoder, tiny_folder: Path, tmp_path: Path
) -> None:
    made = updates(tiny, "query", "up")
    prompt = Prompt(generation_config=GenerationConfig(max_new_tokens=4))
    adaptation = Adaptation("lora", prompt, made.merge_into(tiny), lora_weights=made)
    folder = adaptation.save(tmp_path / "saved")
    held = sorted(file.name for file in folder.iterdir())
    assert held == ["adaptation.json", ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    again = Adaptation.load(folder)
    assert again.model.fingerprint == adaptation.model.fingerprint != tiny.fingerprint
    assert (
        again.lora_weights is not None and again.lora_weights.base_fingerprint == tiny.fingerprint
    )
    assert theirs(tiny_folder, folder, tiny) == ours(adaptation.model)
    other = load_pretrained(write_tiny_llama(tmp_path / "other", seed=4))
    with pytest.raises(UserError, match="belongs to another decoder"):
        Adaptation.load(folder, other)


FUSED = ("phi3", "gpt2", "gpt_neox")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, decoder) of a family, made once by transformers."""
    made: dict[str, tuple[Path, PretrainedDecoder]] = {}

    def get(name: str) -> tuple[Path, PretrainedDecoder]:
        if name not in made:
            folder = tmp_path_factory.mktemp("family")
            make(folder, name)
            made[name] = folder, load_pretrained(folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", FUSED)
def test_updates_of_fused_parts_leave_as_one_block(
    name: str, families: Any, tmp_path: Path
) -> None:
    folder, model = families(name)
    made = updates(model, "query", "value", "output", "up")
    write_lora(tmp_path, made, model)
    assert theirs(folder, tmp_path, model) == ours(made.merge_into(model)) != ours(model)
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None
    merged, expected = (get_parameters(one.merge_into(model).decoder) for one in (again, made))
    for path, kernel in expected.items():
        np.testing.assert_allclose(merged[path], kernel, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_adapters_of_fused_modules_come_in(name: str, families: Any, tmp_path: Path) -> None:
    folder, model = families(name)
    peft_adapter(folder, tmp_path / "in", target_modules="all-linear")
    adaptation = import_adapter(tmp_path / "in", model)
    assert ours(adaptation.model) == theirs(folder, tmp_path / "in", model) != ours(model)
    assert adaptation.lora_weights is not None
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    first, second = (load_file(tmp_path / one / ADAPTER_WEIGHTS) for one in ("in", "out"))
    assert first.keys() == second.keys()  # what came in as one block leaves as that block
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["gemma", "gpt2"])
def test_soft_prompts_live_behind_the_embeddings_scale(
    name: str, families: Any, tmp_path: Path
) -> None:
    folder, model = families(name)
    write_soft_prompt(tmp_path, soft(model), model)
    assert theirs(folder, tmp_path, model) == ours(model, soft(model)) != ours(model)


def test_the_experts_of_a_mixture_are_refused_and_its_attention_leaves(
    families: Any, tmp_path: Path
) -> None:
    folder, model = families("qwen3_moe")
    made = updates(model, "query", "key")
    write_lora(tmp_path / "out", made, model)
    assert theirs(folder, tmp_path / "out", model) == ours(made.merge_into(model)) != ours(model)
    with pytest.raises(UserError, match=r"ffn\.up\.kernel, which it would take for the experts'"):
        write_lora(tmp_path / "up", updates(model, "up"), model)
    peft_adapter(folder, tmp_path / "in", target_modules="all-linear")
    with pytest.raises(UserError, match=r"cannot be represented here: target_parameters \["):
        read_adapter(tmp_path / "in", model)


@pytest.mark.parametrize("name", ["gemma4, experts", "gemma4, per-layer embeddings"])
def test_all_that_peft_finds_with_experts_and_in_per_layer_embeddings_comes_in_and_leaves(
    name: str, families: Any, tmp_path: Path
) -> None:
    folder, model = families(name)
    peft_adapter(folder, tmp_path / "in", target_modules="all-linear")
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    places = {path[-2] for path in adaptation.lora_weights.factors}
    assert places > {"query", "key", "value", "output", "gate", "up", "down"}
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    assert theirs(folder, tmp_path / "out", model) == expected


def test_factors_of_the_output_come_in_and_leave(families: Any, tmp_path: Path) -> None:
    folder, model = families("gpt_neox")
    peft_adapter(folder, tmp_path / "in", target_modules=["lm_head", "dense"])
    adaptation = import_adapter(tmp_path / "in", model)
    expected = theirs(folder, tmp_path / "in", model)
    assert ours(adaptation.model) == expected != ours(model)
    assert adaptation.lora_weights is not None
    write_lora(tmp_path / "out", adaptation.lora_weights, model)
    assert theirs(folder, tmp_path / "out", model) == expected
