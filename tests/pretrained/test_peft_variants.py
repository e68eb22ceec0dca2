"""DoRA, LoRA on embeddings, and whole embeddings and outputs: logits of PEFT's own model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft_cases import our_logits, peft_adapter, tampered, their_logits, updates
from safetensors.numpy import load_file
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import ADAPTER_WEIGHTS, read_adapter
from adapt_jax.pretrained.peft.writing import write_lora
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT

Base = tuple[Path, PretrainedDecoder]
IN, OUT = "embed_tokens", "lm_head"
TIE = {"ensure_weight_tying": True}


@pytest.fixture(scope="module")
def base(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """The folder and the decoder: tied, untied, or a case of family_cases.py."""
    kept: dict[str, Base] = {}

    def get(name: str) -> Base:
        if name not in ("tied", "untied"):
            folder, _, model = made(name)
            return folder, model
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            write_tiny_llama(folder, tie_word_embeddings=name == "tied", mlp_bias=True)
            kept[name] = folder, load_pretrained(folder)
        return kept[name]

    return get


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    atol = 1e-5 * max(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


def check_import(base: Base, folder: Path, **options: Any) -> Adaptation:
    """Imports an adapter of PEFT; it has its logits, as it is and saved and exported."""
    decoder_folder, model = base
    peft_adapter(decoder_folder, folder / "in", **options)
    expected = their_logits(decoder_folder, folder / "in", model)
    adaptation = import_adapter(folder / "in", model)
    assert_close(our_logits(adaptation.model), expected)
    assert np.abs(our_logits(model) - expected).max() > 0.1
    again = Adaptation.load(adaptation.save(folder / "saved"), model)
    assert again.model.fingerprint == adaptation.model.fingerprint
    if adaptation.lora_weights is not None:
        write_lora(folder / "out", adaptation.lora_weights, adaptation.model)
        assert_close(their_logits(decoder_folder, folder / "out", model), expected)
    return adaptation


@pytest.mark.parametrize("name", ["tied", "gpt2", "phi3", "qwen3_5", "minicpm3"])
def test_dora_of_every_kind_of_projection_comes_in_and_leaves(
    name: str, base: Callable[[str], Base], tmp_path: Path
) -> None:
    """With biases, transposed, fused, beside a recurrent state, and of latent attention."""
    adaptation = check_import(base(name), tmp_path, target_modules="all-linear", use_dora=True)
    assert adaptation.lora_weights is not None and adaptation.lora_weights.has_magnitudes
    first, second = (load_file(tmp_path / one / ADAPTER_WEIGHTS) for one in ("in", "out"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_dora_with_patterns_and_stabilized_ranks_comes_in_and_leaves(
    base: Callable[[str], Base], tmp_path: Path
) -> None:
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 5}}
    check_import(base("tied"), tmp_path, use_dora=True, use_rslora=True, **patterns)


@pytest.mark.parametrize("name", ["phi3", "gpt2"])
def test_dora_of_some_fused_parts_leaves_with_the_others_unchanged(
    name: str, base: Callable[[str], Base], tmp_path: Path
) -> None:
    folder, model = base(name)
    kernels = get_parameters(model.decoder)
    factors = {
        path: LoRAFactors(
            one.a, one.b, one.alpha, 1.3 * np.linalg.norm(np.asarray(kernels[path]), axis=1)
        )
        for path, one in updates(model, "query", "up").factors.items()
    }
    added = LoRAWeights(factors, model.fingerprint)
    merged = added.merge_into(model)
    write_lora(tmp_path, added, merged)
    assert_close(their_logits(folder, tmp_path, model), our_logits(merged))
    again = read_adapter(tmp_path, model).lora_weights
    assert again is not None
    assert_close(our_logits(again.merge_into(model)), our_logits(merged))


@pytest.mark.parametrize(
    ("name", "targets", "options"),
    [
        ("untied", [IN], {}),
        ("untied", [IN, OUT], {"use_dora": True}),
        ("tied", [IN], {}),
        ("tied", [IN, "q_proj"], {"use_dora": True, "use_rslora": True}),
        ("tied", [OUT], {}),
        ("tied", [IN, OUT], {}),
        ("tied", [IN], TIE),
        ("tied", [OUT, "q_proj"], TIE),
        ("tied", [IN, OUT], TIE | {"use_dora": True}),
        ("tied", r".*\.(embed_tokens|q_proj)", {"rank_pattern": {IN: 2}}),
        ("gemma", [IN], {}),
        ("gemma", [IN], {"use_dora": True}),
        ("gpt2", ["wte", "wpe"], {}),
        ("gemma4, per-layer embeddings", ["embed_tokens_per_layer"], {"use_dora": True}),
    ],
)
def test_factors_of_embeddings_and_outputs_come_in_and_leave(
    name: str,
    targets: Any,
    options: dict[str, Any],
    base: Callable[[str], Base],
    tmp_path: Path,
) -> None:
    """Of a tied pair PEFT updates each by itself, unless it is asked to tie the updates too."""
    adaptation = check_import(base(name), tmp_path, target_modules=targets, **options)
    assert adaptation.lora_weights is not None
    is_tied_before = base(name)[1].config.tie_embeddings
    tied_pair = {EMBEDDING, OUTPUT} & adaptation.lora_weights.factors.keys()
    stays_tied = not tied_pair or (options == TIE and len(tied_pair) == 2)
    assert adaptation.model.config.tie_embeddings == (is_tied_before and stays_tied)


def test_an_output_that_is_no_longer_tied_leaves_as_a_folder_of_its_own(
    base: Callable[[str], Base], tmp_path: Path
) -> None:
    folder, model = base("tied")
    before = our_logits(model)
    adaptation = check_import((folder, model), tmp_path, target_modules=[IN])
    save_pretrained(adaptation.model, tmp_path / "hf")
    assert_close(their_logits(tmp_path / "hf", None, model), our_logits(adaptation.model))
    assert load_pretrained(tmp_path / "hf").fingerprint == adaptation.model.fingerprint
    assert model.config.tie_embeddings and np.array_equal(our_logits(model), before)


@pytest.mark.parametrize("name", ["tied", "untied"])
@pytest.mark.parametrize(
    ("options", "stays_tied"),
    [
        ({"modules_to_save": [IN]}, False),
        ({"modules_to_save": [OUT]}, False),
        ({"modules_to_save": [IN, OUT]}, False),
        ({"modules_to_save": [IN]} | TIE, True),
        ({"modules_to_save": [OUT]} | TIE, True),
        ({"modules_to_save": [OUT], "target_modules": [IN]}, False),
        ({"trainable_token_indices": [9, 5, 30]}, True),
        ({"trainable_token_indices": {OUT: [9, 5, 30]}}, False),
        ({"trainable_token_indices": {IN: [9, 5], OUT: [9, 5]}}, True),
        ({"trainable_token_indices": {IN: [9, 5], OUT: [9, 30]}}, False),
    ],
)
def test_whole_embeddings_and_outputs_come_in(
    options: dict[str, Any],
    stays_tied: bool,
    name: str,
    base: Callable[[str], Base],
    tmp_path: Path,
) -> None:
    adaptation = check_import(base(name), tmp_path, **options)
    assert adaptation.has_full_weights and adaptation.lora_weights is None
    assert adaptation.model.config.tie_embeddings == (name == "tied" and stays_tied)


def test_a_tied_embedding_that_replaces_the_decoders_own_is_the_output_too(
    base: Callable[[str], Base], tmp_path: Path
) -> None:
    """As PEFT writes one that was resized or trained before; it is no module to save."""
    folder, model = base("tied")
    write_lora(tmp_path, updates(model, "query"), model)
    shape = model.decoder.embedding.shape
    drawn = np.random.default_rng(3).normal(0, 0.2, shape).astype(np.float32)
    tampered(tmp_path, {}, lambda held: held.update({f"base_model.model.model.{IN}.weight": drawn}))
    adaptation = import_adapter(tmp_path, model)
    assert adaptation.has_full_weights and adaptation.model.config.tie_embeddings
    assert_close(our_logits(adaptation.model), their_logits(folder, tmp_path, model))
