"""Random adapters, and what a decoder says with them: here and with the real PEFT."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from adapt_jax.decoders.prefix import Prefix, SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adapt_jax.sampling.engine import Engine, Request
from adapt_jax.sampling.types import GenerationConfig

TEXT, NEW = "Jane has 2 apples.", 24


def soft(model: PretrainedDecoder, length: int = 5) -> SoftPrompt:
    rows = np.random.default_rng(0).normal(0, 0.3, (length, model.config.input_dim))
    return SoftPrompt(jnp.asarray(rows, jnp.float32))


def updates(model: PretrainedDecoder, *names: str, rank: int = 3, stabilized: bool = False) -> Any:
    """Random factors of every kernel of these names, large enough to change what is said."""
    draws = np.random.default_rng(1)
    factors = {
        path: LoRAFactors(
            draws.normal(0, 0.3, (rank, value.shape[1])).astype(np.float32),
            draws.normal(0, 0.3, (value.shape[0], rank)).astype(np.float32),
            6.0,
        )
        for path, value in get_parameters(model.decoder).items()
        if path[-1] == "kernel" and path[-2] in names and path[0] == "layers"
    }
    return LoRAWeights(factors, model.fingerprint, stabilized)


def ours(model: PretrainedDecoder, soft_prompt: SoftPrompt | None = None) -> list[int]:
    """Greedy token ids."""
    prefix = Prefix(() if soft_prompt is None else (soft_prompt,))
    engine = Engine(
        model, prefix, GenerationConfig(max_new_tokens=NEW), seed=0, max_concurrent_sequences=2
    )
    request = Request("0", tuple(model.encode(TEXT)))
    return [list(said.token_ids) for _, _, said in engine.run([request])][0]


def theirs(folder: Path, adapter: Path | None, model: PretrainedDecoder) -> list[int]:
    """Greedy token ids of transformers, with a PEFT adapter or without."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        reference = PeftModel.from_pretrained(reference, str(adapter))
    ids = torch.tensor([model.encode(TEXT)])
    with torch.no_grad():
        said = reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=2,
            # with it PEFT contradicts itself where there is a soft prompt (transformers 5.24)
            use_cache=False,
        )
    return said[0, ids.shape[1] :].tolist()


def our_logits(model: PretrainedDecoder) -> np.ndarray:
    """Logits of TEXT."""
    ids = jnp.asarray([model.encode(TEXT)])
    mask = jnp.tril(jnp.ones((1, ids.shape[1], ids.shape[1]), bool))
    decoder = model.decoder
    hidden, _ = decoder(decoder.embed(ids), jnp.arange(ids.shape[1])[None], mask)
    return np.asarray(decoder.logits(hidden))


def their_logits(
    folder: Path, adapter: Path | None, model: PretrainedDecoder, kind: str = "CausalLM"
) -> np.ndarray:
    """Logits of TEXT of transformers, with a PEFT adapter or without.

    Args:
        kind: ImageTextToText for a multimodal checkpoint with its towers.
    """
    import torch
    import transformers
    from peft import PeftModel

    auto = getattr(transformers, f"AutoModelFor{kind}")
    reference: Any = auto.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        reference = PeftModel.from_pretrained(reference, str(adapter))
    with torch.no_grad():
        return reference(torch.tensor([model.encode(TEXT)])).logits.numpy()


def peft_adapter(folder: Path, to: Path, kind: str = "CausalLM", **options: Any) -> None:
    """An adapter that the real PEFT made, with random factors; ``kind`` as in their_logits."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"]} | options
    options = deepcopy(options)  # PEFT changes lists of names in place
    auto = getattr(transformers, f"AutoModelFor{kind}")
    base: Any = auto.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(str(to))


def tampered(folder: Path, config: dict[str, Any], tensors: Any = None) -> None:
    """Changes fields of an adapter's config, and its tensors in place by a function of them."""
    told = json.loads((folder / ADAPTER_CONFIG).read_text()) | config
    (folder / ADAPTER_CONFIG).write_text(json.dumps(told))
    if tensors is not None:
        held = load_file(folder / ADAPTER_WEIGHTS)
        tensors(held)
        save_file(held, folder / ADAPTER_WEIGHTS)
