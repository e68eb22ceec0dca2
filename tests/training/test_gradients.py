"""Gradients of every tuning method against transformers and PEFT: same batch, same loss.

On a random decoder and on a real checkpoint; theirs is padded on the right, ours packed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.methods.lora import attach_lora
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.training.packing import BatchShape, TrainingExample, pack
from adapt_jax.training.tuned_decoder import TunedDecoder

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
MODULES = {
    "q_proj": "attention.query",
    "v_proj": "attention.value",
    "up_proj": "ffn.up",
    "down_proj": "ffn.down",
}


@pytest.fixture(scope="module", params=["random", "stories260k"])
def folder(request, tiny_folder):
    if request.param == "random":
        return tiny_folder
    return request.getfixturevalue("shared") / "models" / "stories260k"


def reference(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def made_examples():
    draws = np.random.default_rng(0)
    sizes = draws.integers(6, 40, 6).tolist()
    return [
        TrainingExample(str(n), tuple(draws.integers(3, 320, size).tolist()), size // 2)
        for n, size in enumerate(sizes)
    ]


def their_loss(model):
    """Of the padded batch, as their users write it; its gradients are in the model afterwards."""
    examples = made_examples()
    width = max(len(example.tokens) for example in examples)
    ids, mask = np.zeros((2, len(examples), width), int)
    labels = np.full((len(examples), width), -100)
    for row, example in enumerate(examples):
        length, start = len(example.tokens), example.target_start
        ids[row, :length], mask[row, :length] = example.tokens, 1
        labels[row, start:length] = example.tokens[start:]
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = model(**{name: torch.tensor(value) for name, value in given.items()}).loss
    loss.backward()
    return loss.item()


def our_loss(model, chosen):
    """Of the packed batch, and the gradients by parameter path."""
    batch, left_over = pack(made_examples(), BatchShape(3, 64, 192))
    assert not left_over and batch.segments.max() > 1
    graph, trainable, frozen = nnx.split(model, chosen, ...)

    def loss(trainable):
        model = nnx.merge(graph, trainable, frozen)
        return model.loss(batch, model.prefix(jnp.zeros(0, jnp.int32)))[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(trainable)
    flat = nnx.to_flat_state(gradients)
    return float(value), {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def assert_close(ours, theirs):
    assert np.abs(theirs).max() > 1e-4
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))


def test_fine_tuning_gradients_equal_those_of_transformers(folder):
    model = reference(folder)
    expected = their_loss(model)
    loss, found = our_loss(TunedDecoder(load_pretrained(folder).decoder), nnx.Param)
    assert loss == pytest.approx(expected, abs=1e-5)
    theirs = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert_close(found["decoder.embedding"], theirs["model.embed_tokens.weight"])
    assert_close(found["decoder.norm.scale"], theirs["model.norm.weight"])
    for layer in range(model.config.num_hidden_layers):
        for name in ("q", "k", "v", "o"):
            path = {"q": "query", "k": "key", "v": "value", "o": "output"}[name]
            ours = found[f"decoder.layers.{layer}.attention.{path}.kernel"]
            assert_close(ours, theirs[f"model.layers.{layer}.self_attn.{name}_proj.weight"])
        for name in ("gate", "up", "down"):
            ours = found[f"decoder.layers.{layer}.ffn.{name}.kernel"]
            assert_close(ours, theirs[f"model.layers.{layer}.mlp.{name}_proj.weight"])
        ours = found[f"decoder.layers.{layer}.attention_norm.scale"]
        assert_close(ours, theirs[f"model.layers.{layer}.input_layernorm.weight"])


def test_prompt_gradient_equals_that_of_peft(folder):
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(reference(folder), settings)
    (embedding,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = their_loss(model)
    soft = SoftPrompt(embedding.detach().numpy())
    tuned = TunedDecoder(load_pretrained(folder).decoder, soft)
    loss, found = our_loss(tuned, nnx.PathContains("soft_prompt"))
    assert loss == pytest.approx(expected, abs=1e-5)
    assert_close(found["soft_prompt.embeddings"], embedding.grad.numpy())


@pytest.mark.parametrize("dora", [False, True])
def test_low_rank_gradients_and_a_step_equal_those_of_peft(dora, folder):
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=list(MODULES), use_dora=dora
    )
    model = peft.get_peft_model(reference(folder), settings)
    decoder = load_pretrained(folder).decoder
    names = [path.split(".")[1] for path in MODULES.values()]
    attach_lora(decoder, names, 4, 2.0, nnx.Rngs(0), dora=dora)
    theirs = {name: one for name, one in model.named_parameters() if "lora_" in name}
    draws = np.random.default_rng(1)
    pairs = {}
    for name, parameter in theirs.items():  # the same factors on both sides, none of them zero
        value = draws.normal(0, 0.1, parameter.shape).astype(np.float32)
        if "magnitude" in name:
            value = parameter.detach().numpy() * (1 + value)
        with torch.no_grad():
            parameter.copy_(torch.tensor(value))
        parts = name.split(".")
        layer, module = int(parts[4]), parts[6]
        factor = {"lora_A": "a", "lora_B": "b"}.get(parts[7], "magnitude")
        room, linear = MODULES[module].split(".")
        lora = getattr(getattr(decoder.layers[layer], room), linear).lora
        if factor == "magnitude":  # at first that of the kernel, as there
            kernel = getattr(getattr(decoder.layers[layer], room), linear).kernel[...]
            np.testing.assert_allclose(
                lora.magnitude[...], np.linalg.norm(kernel, axis=1), rtol=1e-6
            )
        getattr(lora, factor)[...] = jnp.asarray(value)
        pairs[f"decoder.layers.{layer}.{MODULES[module]}.lora.{factor}"] = parameter
    expected = their_loss(model)
    loss, found = our_loss(TunedDecoder(decoder), nnx.PathContains("lora"))
    assert loss == pytest.approx(expected, abs=1e-5) and found.keys() == pairs.keys()
    for path, parameter in pairs.items():
        assert_close(found[path], parameter.grad.numpy())

    # a step of gradient descent
    with torch.no_grad():
        for parameter in pairs.values():
            parameter -= 0.3 * parameter.grad
    state = nnx.to_flat_state(nnx.state(decoder, nnx.PathContains("lora")))
    for path, variable in state:
        gradient = found[".".join(map(str, ("decoder", *path)))]
        variable.set_value(variable.get_value() - 0.3 * gradient)
    nnx.update(decoder, nnx.from_flat_state(state))
    after = their_loss(model)
    assert abs(after - expected) > 1e-3
    assert our_loss(TunedDecoder(decoder), nnx.PathContains("lora"))[0] == pytest.approx(
        after, abs=1e-5
    )
