"""Adaptations leave for what others serve, and come in from PEFT.

hf     a Hugging Face folder with full or merged weights
peft   a PEFT adapter: the soft prompt or the low-rank updates alone

What stands in front of the question besides a soft prompt lies beside either, as prompt.json, and
README.md says how to ask.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.peft_folder import read_adapter, read_base_decoder
from adapt_jax.pretrained.peft_writing import write_lora, write_soft_prompt
from adapt_jax.pretrained.saving import (
    DEFAULT_SHARD_SIZE,
    parse_shard_size,
    read_source_dtype,
    save_pretrained,
)
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError, nearest

FORMATS = ("hf", "peft")
DTYPES = ("float32", "bfloat16", "float16")
# An adapter that comes in without a task is asked with the bare text, and its text is the answer.
BARE = Template(
    question="{question}", answer="{answer}", answer_with_reasoning="{reasoning}{answer}"
)


def export_adaptation(
    adaptation: Adaptation,
    folder: str | Path,
    *,
    format: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
) -> Path:
    """Writes an adaptation in a format of others, all of it or nothing.

    Args:
        folder: a new or empty one.
        format: "hf" or "peft"; by default peft for a soft prompt, and otherwise hf.
        dtype: of the weights of an hf folder; see ``export_dtype``.
        max_shard_size: of an hf folder's files, in bytes or such as "200MB".

    Raises:
        UserError: the folder holds something, or the format cannot hold this adaptation.
    """
    folder = Path(folder)
    chosen = format or ("hf" if adaptation.soft_prompt is None else "peft")
    for name, value, known in (("format", chosen, FORMATS), ("dtype", dtype, (*DTYPES, None))):
        if value not in known:
            names = [str(one) for one in known if one]
            hint = nearest(str(value), names)
            raise UserError(f"{name} {value!r}: expected one of {', '.join(names)}{hint}")
    parse_shard_size(max_shard_size)
    if chosen == "hf" and adaptation.soft_prompt is not None:
        raise UserError("weights cannot hold a soft prompt; it leaves with format peft")
    if chosen == "peft" and adaptation.soft_prompt is None and adaptation.lora_weights is None:
        what = (
            "its weights were all tuned"
            if adaptation.has_full_weights
            else "nothing of it was trained"
        )
        raise UserError(f"there is no adapter to write: {what}; it leaves with format hf")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not empty; choose a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if chosen == "hf":
            kind = export_dtype(adaptation, dtype)
            save_pretrained(adaptation.model, new, dtype=kind, max_shard_size=max_shard_size)
        elif adaptation.soft_prompt is not None:
            write_soft_prompt(new, adaptation.soft_prompt, adaptation.model)
        elif adaptation.lora_weights is not None:
            write_lora(new, adaptation.lora_weights, adaptation.model)
        prompt = adaptation.prompt.to_dict()
        text = json.dumps(prompt, indent=2, ensure_ascii=False)
        (new / "prompt.json").write_text(text + "\n", encoding="utf-8")
        (new / "README.md").write_text(how_to_ask(adaptation, chosen), encoding="utf-8")
        os.chmod(new, 0o755)  # mkdtemp's folders are private
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def export_dtype(adaptation: Adaptation, asked: str | None = None) -> str:
    """The dtype in which weights leave: as asked, or as the files of the decoder it began with.

    So a decoder comes out as it went in, to the bit, whatever it was computed in meanwhile, and
    tuned or merged weights take the place of the decoder's own. Where those files are gone or in
    no dtype of DTYPES, it is that of the weights in memory.
    """
    stored = asked or adaptation.source_dtype or read_source_dtype(adaptation.model.path)
    return stored if stored in DTYPES else str(adaptation.model.decoder.embedding[...].dtype)


def how_to_ask(adaptation: Adaptation, format: str) -> str:
    """README.md of an exported folder: what to load, and the text that a question goes into."""
    prompt, model = adaptation.prompt, adaptation.model
    decoding, soft = prompt.generation_config, adaptation.soft_prompt
    load = ["model = AutoModelForCausalLM.from_pretrained(folder)"]
    imports, source = ["from transformers import AutoModelForCausalLM, AutoTokenizer"], "folder"
    if format == "peft":
        imports.append("from peft import PeftModel")
        source = json.dumps(model.path)
        load = [
            f"model = AutoModelForCausalLM.from_pretrained({source})",
            "model = PeftModel.from_pretrained(model, folder)",
        ]
    text = prompt.render_prompt(model, prompt.template.format_question("your question"))
    bos = ", add_special_tokens=False" if prompt.template.chat else ""
    lines = [
        *imports,
        'folder = "."  # where this file lies',
        f"tokenizer = AutoTokenizer.from_pretrained({source})",
        *load,
        f"text = {text!r}",
        f'inputs = tokenizer(text{bos}, return_tensors="pt")',
        f"said = model.generate(**inputs, max_new_tokens={decoding.max_new_tokens}, "
        f"{_sampled(decoding)})",
        'print(tokenizer.decode(said[0, inputs["input_ids"].shape[1]:]))',
    ]
    told = [f"# {adaptation.method}", "", f"An adaptation of `{model.path}` by adapt_jax."]
    if soft is not None:
        told.append(
            f"The soft prompt of {len(soft)} embeddings stands in front of all tokens, BOS "
            "included (and behind the embedding's scale, where a decoder has one)."
        )
    if decoding.stop:
        told.append(f"The text ends at EOS, or where one of {list(decoding.stop)!r} begins.")
    if decoding.candidates > 1:
        told.append(
            f"{decoding.candidates} candidates are sampled and voted (rule {prompt.vote!r})."
        )
    told.append(f"The answer is read by the parser {prompt.parser!r}; prompt.json holds the rest.")
    return "\n".join([*told, "", "```python", *lines, "```", ""])


def _sampled(decoding: GenerationConfig) -> str:
    if decoding.temperature == 0:
        return "do_sample=False"
    return (
        f"do_sample=True, temperature={decoding.temperature}, top_k={decoding.top_k}, "
        f"top_p={decoding.top_p}"
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
        decoder: what it belongs to, or where that lies; what adapter_config.json names if not
            given.
        task: says how questions are asked and answers read; without it the bare text is asked.
        context_length: see load_pretrained.

    Raises:
        UserError: naming what is damaged, does not fit the decoder or cannot be represented.
    """
    if decoder is None:
        decoder = read_base_decoder(folder)
    model = decoder
    if not isinstance(model, PretrainedDecoder):
        model = load_pretrained(model, context_length=context_length)
    adapter = read_adapter(folder, model)
    template = BARE if task is None else task.template
    prompt = Prompt(
        template=template,
        instruction="" if task is None else task.instruction,
        parser="text" if task is None else task.parser,
        generation_config=GenerationConfig(max_new_tokens=max_new_tokens, stop=template.stop),
    )
    if adapter.lora_weights is None:
        return Adaptation("prompt_tuning", prompt, model, adapter.soft_prompt)
    if not adapter.replaced:
        merged = adapter.lora_weights.merge_into(model)
        return Adaptation("lora", prompt, merged, lora_weights=adapter.lora_weights)
    own = PretrainedDecoder(nnx.clone(model.decoder), model.tokenizer, model.path)
    _replace(own, adapter.replaced)  # first: a replaced kernel may have factors on top
    return Adaptation("lora", prompt, adapter.lora_weights.merge_into(own), has_full_weights=True)


def _replace(model: PretrainedDecoder, parameters: Mapping[ParameterPath, np.ndarray]) -> None:
    """Puts whole parameters in the place of the decoder's own, in its dtype and on its devices."""
    state = dict(nnx.to_flat_state(nnx.state(model.decoder, nnx.Param)))
    for path, array in parameters.items():
        old = state[path].get_value()
        new = jax.device_put(jnp.asarray(array).astype(old.dtype), old.sharding)
        state[path] = state[path].replace(new)
    nnx.update(model.decoder, nnx.from_flat_state(list(state.items())))
