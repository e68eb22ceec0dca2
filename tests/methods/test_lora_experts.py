"""LoRA on the experts of a mixture: gradients of PEFT, and adapters that PEFT reads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peft_cases import our_logits, their_logits
from training_cases import TASK

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.methods.lora import LoRAConfig, attach_lora, detach_lora
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.peft.writing import write_lora
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

EXPERTS = ["expert_gate", "expert_up", "expert_down"]
IDS = [[5, 9, 17, 30, 100, 200, 3, 44]]


def test_gradients_of_experts_equal_those_of_peft(made: Any) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder, _, model = made("qwen3_moe")
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_alpha=6, target_modules=[], target_parameters=parameters
    )
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference = peft.get_peft_model(base, settings)
    draws = np.random.default_rng(0)
    theirs = {}
    for name, one in reference.named_parameters():
        if "lora_" in name:  # the same factors on both sides; down_proj is wrapped last
            with torch.no_grad():
                one.copy_(torch.tensor(draws.normal(0, 0.2, one.shape).astype(np.float32)))
            inner = "base_layer" in name
            theirs["gate_up" if inner else "down", name.split("lora_")[1][0]] = one
    ids = torch.tensor(IDS)
    loss = reference(input_ids=ids, labels=ids).loss
    loss.backward()

    decoder = nnx.clone(model.decoder)
    attach_lora(decoder, EXPERTS, 2, 3.0, nnx.Rngs(0))
    experts, ffn = decoder.layers[0].ffn.lora, decoder.config.moe.ffn_dim
    count = decoder.config.moe.num_experts

    def split(kind: str, value: Any) -> dict[tuple[str, str], np.ndarray]:
        """The tensors A and B of PEFT as [E, R, I] and [E, O, R] of each kernel."""
        a = value(theirs[kind, "A"]).reshape(count, 2, -1)
        b = value(theirs[kind, "B"]).reshape(-1, 2, count).transpose(2, 0, 1)
        if kind == "down":
            return {("down", "a"): a, ("down", "b"): b}
        return {
            ("gate", "a"): a, ("gate", "b"): b[:, :ffn], ("up", "a"): a, ("up", "b"): b[:, ffn:],
        }  # fmt: skip

    values = {k: v for kind in ("gate_up", "down") for k, v in split(kind, read_value).items()}
    for (kernel, factor), value in values.items():
        getattr(getattr(experts, kernel), factor)[...] = jnp.asarray(value)
    graph, trained, frozen = nnx.split(decoder, nnx.PathContains("lora"), ...)

    def compute(trained: Any) -> jax.Array:
        logits = compute_logits(nnx.merge(graph, trained, frozen))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(IDS)[:, 1:, None], -1)
        return -chosen.mean()

    found, gradients = jax.jit(jax.value_and_grad(compute))(trained)
    assert float(found) == pytest.approx(loss.item(), abs=1e-5)
    ours = {path[-2:]: np.asarray(one[...]) for path, one in nnx.to_flat_state(gradients)}
    ours["gate", "a"] = ours["up", "a"] = ours["gate", "a"] + ours["up", "a"]  # it is one there
    expected = {k: v for kind in ("gate_up", "down") for k, v in split(kind, read_grad).items()}
    assert ours.keys() == expected.keys()
    for path, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-4
        np.testing.assert_allclose(ours[path], gradient, atol=1e-5 * np.abs(gradient).max() + 1e-7)


def read_value(parameter: Any) -> np.ndarray:
    return parameter.detach().numpy()


def read_grad(parameter: Any) -> np.ndarray:
    return parameter.grad.numpy()


def compute_logits(decoder: Any) -> jax.Array:
    """Logits that predict the second and later tokens of IDS."""
    ids = jnp.asarray(IDS)[:, :-1]
    mask = jnp.tril(jnp.ones((1, ids.shape[1], ids.shape[1]), bool))
    hidden, _ = decoder(decoder.embed(ids), jnp.arange(ids.shape[1])[None], mask)
    return decoder.logits(hidden)


def test_experts_are_trained_saved_and_written_for_peft(made: Any, tmp_path: Path) -> None:
    folder, _, model = made("gpt_oss")
    training = {"steps": 2, "batch_size": 2, "learning_rate": 0.05, "warmup_steps": 0}
    method = LoRAConfig(rank=2, modules=["query", "expert_up", "expert_down"], training=training)
    adaptation = method.adapt(model, TASK).adaptation
    assert adaptation.lora_weights is not None
    assert any(path[-1] == "up" for path in adaptation.lora_weights.factors)
    again = Adaptation.load(adaptation.save(tmp_path / "saved"), model)
    assert np.abs(our_logits(again.model) - our_logits(model)).max() > 1e-3
    np.testing.assert_allclose(our_logits(again.model), our_logits(adaptation.model), atol=1e-5)
    write_lora(tmp_path / "out", adaptation.lora_weights, adaptation.model)
    expected = their_logits(folder, tmp_path / "out", model)
    np.testing.assert_allclose(our_logits(adaptation.model), expected, atol=2e-5)


def test_experts_that_are_not_there_or_rescaled_are_refused(tiny: PretrainedDecoder) -> None:
    with pytest.raises(UserError, match="no layer of this decoder has expert_up"):
        attach_lora(nnx.clone(tiny.decoder), ["expert_up"], 2, 1.0, nnx.Rngs(0))
    with pytest.raises(UserError, match="dora trains no experts, as in PEFT: leave out expert_up"):
        validate(LoRAConfig, {"dora": True, "modules": ["expert_up"]}, "lora")


def test_shared_experts_count_as_feed_forward_layers(made: Any) -> None:
    """Every token passes them; the gate in front of them, and the router, are left out."""
    _, _, model = made("qwen3_next")
    decoder = nnx.clone(model.decoder)
    attach_lora(decoder, "all", 2, 3.0, nnx.Rngs(0))
    shared = {path[3:] for path in detach_lora(decoder, 6.0) if path[1:3] == (0, "ffn")}
    assert shared == {("shared", name, "kernel") for name in ("gate", "up", "down")}
