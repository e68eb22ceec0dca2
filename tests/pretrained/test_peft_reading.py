"""PEFT's folders as they are read: names that wrappers change, and what is refused by name."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft_cases import soft, tampered, updates
from safetensors.numpy import load_file, save_file

from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.peft.folder import ADAPTER_WEIGHTS, read_adapter
from adapt_jax.pretrained.peft.writing import write_lora, write_soft_prompt
from adapt_jax.utils.errors import UserError


def test_a_soft_prompt_behind_bos_cannot_leave(tiny: PretrainedDecoder, tmp_path: Path) -> None:
    behind = SoftPrompt(soft(tiny).embeddings[...], before_bos=False)
    with pytest.raises(UserError, match="comes after BOS; PEFT puts every soft prompt"):
        write_soft_prompt(tmp_path, behind, tiny)


PREFIX = "base_model.model."
QUERY = PREFIX + "model.layers.0.self_attn.q_proj."
TOKENS = PREFIX + "model.embed_tokens.token_adapter.trainable_tokens_delta"


def embedding_factors(rank: int) -> dict[str, np.ndarray]:
    name = PREFIX + "model.embed_tokens.lora_embedding_"
    return {
        name + "A": np.ones((rank, 320), np.float32),
        name + "B": np.ones((32, rank), np.float32),
    }


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"peft_type": "IA3"}, None, "peft_type 'IA3' is not supported; supported: PROMPT_T"),
        (
            {"use_dora": True},
            None,
            "q_proj: has lora_A and lora_B alone; lora_magnitude_vector is missing",
        ),
        (
            {},
            lambda t: t.update({QUERY + "lora_magnitude_vector": np.ones(32, np.float32)}),
            "lora_magnitude_vector: no parameter of such a module without use_dora",
        ),
        (
            {"use_dora": True},
            lambda t: t.update(
                {
                    name.replace("lora_A.weight", "lora_magnitude_vector"): np.ones(31, np.float32)
                    for name in list(t)
                    if "lora_A" in name
                }
            ),
            r"lora_magnitude_vector is \[31\], expected \[32\]",
        ),
        (
            {"use_dora": True, "target_parameters": ["q_proj.weight"]},
            None,
            "use_dora together with target_parameters, which PEFT refuses",
        ),
        (
            {"trainable_token_indices": [3]},
            None,
            "trainable_token_indices names a module of which there is no tensor",
        ),
        (
            {"trainable_token_indices": [3, 320]},
            lambda t: t.update({TOKENS: np.ones((2, 32), np.float32)}),
            r"embed_tokens: trained tokens are \[2, 32\], expected \[2, 32\] for .* below 320",
        ),
        (
            {"trainable_token_indices": [3]},
            lambda t: t.update({TOKENS: np.ones((2, 32), np.float32)}),
            r"trained tokens are \[2, 32\], expected \[1, 32\]",
        ),
        (
            {},
            lambda t: t.update({TOKENS.replace("embed_tokens", "norm"): np.ones((1, 32), "f4")}),
            "norm: has trained tokens, but is no embedding or output",
        ),
        (
            {"target_modules": "all-linear"},
            lambda t: t.update(embedding_factors(2)),
            "embed_tokens: has factors, but target_modules does not name it",
        ),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            lambda t: t.update(embedding_factors(2)),
            r"lora_embedding_A is \[2, 320\], expected \[3, 320\].*lora_embedding_B is \[32, 2\]",
        ),
        (
            {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
            lambda t: t.update(
                embedding_factors(3)
                | {
                    PREFIX + "lm_head.lora_A.weight": np.ones((3, 32), np.float32),
                    PREFIX + "lm_head.lora_B.weight": np.full((320, 3), 2, np.float32),
                }
            ),
            "ensure_weight_tying: embedding and output have different factors",
        ),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights 'pissa' changes the decoder"),
        (
            {"r": 4},
            None,
            r"lora_A is \[3, 32\], expected \[4, 32\].*lora_B is \[32, 3\]",
        ),
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
        ({"use_dora": 1}, "use_dora: expected true or false, found 1"),
        ({"ensure_weight_tying": "yes"}, "ensure_weight_tying: expected true or false"),
        ({"trainable_token_indices": [3, 3]}, "trainable_token_indices: expected different token"),
        (
            {"trainable_token_indices": {"lm_head": 3}},
            "trainable_token_indices: expected different",
        ),
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
