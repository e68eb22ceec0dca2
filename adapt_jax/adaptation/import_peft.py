"""Makes adaptations of PEFT adapters."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.peft.folder import Adapter, read_adapter, read_base_decoder
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT, untie_output
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.model import load_pretrained
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Template

__all__ = ["import_adapter"]

# An adapter that is imported without a task is asked the bare text, and its text is the answer.
BARE = Template(
    question="{question}", answer="{answer}", answer_with_reasoning="{reasoning}{answer}"
)


def import_adapter(
    folder: str | Path,
    decoder: PretrainedDecoder | str | Path | None = None,
    *,
    task: Task | None = None,
    max_new_tokens: int = 128,
    context_length: int | None = None,
) -> Adaptation:
    """A PEFT adapter (prompt tuning, LoRA) as an adaptation.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        decoder: what it belongs to, or where that is; by default the folder that
            adapter_config.json names. A name on the hub is followed only if it is given here.
        task: says how questions are asked and answers read; without it the bare text is asked.
        context_length: see load_pretrained.

    Raises:
        UserError: naming what is damaged, does not fit the decoder or cannot be represented, or
            the decoder is not on this machine.
    """
    if isinstance(decoder, PretrainedDecoder):
        model = decoder
    elif decoder is not None:
        model = load_pretrained(decoder, context_length=context_length)
    else:
        model = load_pretrained(read_base_decoder(folder), context_length=context_length)
    adapter = read_adapter(folder, model)
    template = BARE if task is None else task.template
    prompt = Prompt(
        template=template,
        instruction="" if task is None else task.instruction,
        parser="text" if task is None else task.parser,
        generation_config=GenerationConfig(max_new_tokens=max_new_tokens, stop=template.stop),
    )
    adaptation = _make_adaptation(adapter, model, prompt)
    adaptation.question_format = None if task is None else task.question_format
    return adaptation


def _make_adaptation(adapter: Adapter, model: PretrainedDecoder, prompt: Prompt) -> Adaptation:
    if adapter.lora_weights is None:
        return Adaptation("prompt_tuning", prompt, model, adapter.soft_prompt)
    if not adapter.replaced:
        merged = adapter.lora_weights.merge_into(model)
        return Adaptation("lora", prompt, merged, lora_weights=adapter.lora_weights)
    own = _replace(model, adapter.replaced)  # first: a replaced kernel may have factors on top
    return Adaptation("lora", prompt, adapter.lora_weights.merge_into(own), has_full_weights=True)


def _replace(
    model: PretrainedDecoder, parameters: Mapping[ParameterPath, np.ndarray]
) -> PretrainedDecoder:
    """A copy with whole parameters in place of its own, in its dtype and on its devices.

    A tied output gets a kernel of its own, if embedding and output are not the same afterwards.
    """
    arrays = dict(parameters)
    if model.config.tie_embeddings and arrays.keys() & {EMBEDDING, OUTPUT}:
        both = arrays.keys() >= {EMBEDDING, OUTPUT}
        if both and np.array_equal(arrays[EMBEDDING], arrays[OUTPUT]):
            del arrays[OUTPUT]
        else:
            model = untie_output(model)
    decoder = nnx.clone(model.decoder)
    state = dict(nnx.to_flat_state(nnx.state(decoder, nnx.Param)))
    for path, array in arrays.items():
        old = state[path].get_value()
        new = jax.device_put(jnp.asarray(array).astype(old.dtype), old.sharding)
        state[path] = state[path].replace(new)
    nnx.update(decoder, nnx.from_flat_state(list(state.items())))
    return replace(model, decoder=decoder)
