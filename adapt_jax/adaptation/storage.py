"""The saved folder of an adaptation.

adaptation.json          prompt, generation settings, vote, and which decoder it belongs to
soft_prompt.safetensors  learned embeddings, where there are any
adapter_*                LoRA weights, where there are any, in PEFT's format
weights/                 a Hugging Face folder, where all weights belong to the adaptation
.cache/                  what is kept for the next process, see kept_files
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, PositiveInt

from adapt_jax.adaptation.kept_files import FingerprintRecord, find_kept_folder
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.hf_folder import find_cached_folder
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.pretrained.peft.folder import ADAPTER_CONFIG, PROMPT_EMBEDDINGS, read_adapter
from adapt_jax.pretrained.peft.writing import write_lora
from adapt_jax.pretrained.safetensors_io import read_tensors, write_tensors
from adapt_jax.pretrained.saving import read_source_dtype, save_pretrained
from adapt_jax.pretrained.tokenization import describe_tokenizer
from adapt_jax.pretrained.without_weights import load_without_weights
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.model import load_pretrained
from adapt_jax.tasks.question_format import QuestionFormat
from adapt_jax.utils import distributed, files
from adapt_jax.utils.bucket import localize
from adapt_jax.utils.config import Strict, validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.text_files import read_json

__all__ = [
    "DESCRIPTION",
    "FORMAT_VERSION",
    "SOFT_PROMPT",
    "WEIGHTS",
    "AdaptationContent",
    "SavedAdaptation",
    "read_adaptation",
    "read_question_format",
    "read_without_weights",
    "save_adaptation",
]

FORMAT_VERSION = 4  # of the saved folder; another version is refused
DESCRIPTION, SOFT_PROMPT, WEIGHTS = "adaptation.json", "soft_prompt.safetensors", "weights"
# Its token ids tell tokenizers apart that have the same vocabulary.
TOKENIZER_PROBE = (
    "The quick brown fox jumps over the lazy dog, and 1,234.5 others follow.\n\n  I've"
    " Caf\u00e9s: \u6f22\u5b57, \u00bd x\u00b2, <b>\U0001f600</b>\tQ: What is 17 + 25?\nA:"
)


class SavedAdaptation(Strict):
    """adaptation.json.

    Attributes:
        format: FORMAT_VERSION.
        method: by which it was made, such as "lora".
        decoder: the folder, or name, of the decoder that was adapted.
        fingerprint: of that decoder's weights, without ``lora_weights``; of the adaptation's own
            weights, where ``has_full_weights``.
        tokenizer: hash of its vocabulary, special tokens and chat template.
        context_length: in tokens, of the longest text.
        source_dtype: of the decoder's own files.
        dtype: of the weights, where it was asked for; null where the platform chooses it.
        prompt: see Prompt.to_dict.
        soft_prompt: SOFT_PROMPT is beside it.
        before_bos: the side of BOS on which the soft prompt is prepended; null without one.
        lora_weights: a PEFT adapter is beside it.
        has_full_weights: the folder WEIGHTS is beside it.
        question_format: see QuestionFormat; null where the task reads no file.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    method: str
    decoder: str
    fingerprint: str
    tokenizer: str
    context_length: PositiveInt
    source_dtype: str | None
    dtype: str | None = Field(None, pattern="^(float32|bfloat16|float16)$")
    prompt: dict[str, Any]
    soft_prompt: bool
    before_bos: bool | None
    lora_weights: bool
    has_full_weights: bool
    question_format: dict[str, Any] | None


@dataclass
class AdaptationContent:
    """The fields of an Adaptation that are saved; it describes them."""

    method: str
    prompt: Prompt
    model: PretrainedDecoder
    soft_prompt: SoftPrompt | None = None
    lora_weights: LoRAWeights | None = None
    has_full_weights: bool = False
    source_dtype: str | None = None
    question_format: QuestionFormat | None = None


def save_adaptation(adaptation: AdaptationContent, folder: str | Path) -> None:
    """Writes the whole folder or nothing; an adaptation that was there is replaced.

    Raises:
        UserError: the prompt could not be read again, or the folder holds something else or cannot
            be written.
    """
    _check_prompt(adaptation.prompt)
    # of several processes all fetch what lies on their devices, and process 0 writes
    if adaptation.lora_weights is None:
        _ = adaptation.model.fingerprint
    if distributed.is_main_process():
        files.replace_folder(folder, lambda new: _write_files(adaptation, new), marker=DESCRIPTION)
    elif adaptation.has_full_weights:
        save_pretrained(adaptation.model, Path(folder) / WEIGHTS)
    distributed.barrier("adaptation saved")


def _check_prompt(prompt: Prompt) -> None:
    """Raises UserError for a prompt that could not be read again."""
    try:
        Prompt.from_dict(prompt.to_dict())
    except TypeError as problem:
        raise UserError(f"not saved: {problem}") from None


def _write_files(adaptation: AdaptationContent, folder: Path) -> None:
    """The files of the saved folder, into an empty folder."""
    model, soft_prompt, lora_weights = (
        adaptation.model,
        adaptation.soft_prompt,
        adaptation.lora_weights,
    )
    path = Path(model.path)
    base = model.fingerprint if lora_weights is None else lora_weights.base_fingerprint
    description = SavedAdaptation(
        format=FORMAT_VERSION,
        method=adaptation.method,
        decoder=str(path.resolve()) if path.exists() else model.path,
        fingerprint=base,
        tokenizer=_hash_tokenizer(model),
        context_length=model.config.context_length,
        source_dtype=adaptation.source_dtype or read_source_dtype(model.path),
        dtype=model.requested_dtype,
        prompt=adaptation.prompt.to_dict(),
        soft_prompt=soft_prompt is not None,
        before_bos=None if soft_prompt is None else soft_prompt.before_bos,
        lora_weights=lora_weights is not None,
        has_full_weights=adaptation.has_full_weights,
        question_format=(
            None
            if adaptation.question_format is None
            else adaptation.question_format.model_dump(mode="json")
        ),
    )
    if soft_prompt is not None:
        embeddings = np.asarray(soft_prompt.embeddings[...], np.float32)
        arrays = {PROMPT_EMBEDDINGS: embeddings}
        shapes = {PROMPT_EMBEDDINGS: embeddings.shape}
        write_tensors(folder / SOFT_PROMPT, shapes, np.float32, iter(arrays.items()))
    if lora_weights is not None:
        write_lora(folder, lora_weights, model)
    if adaptation.has_full_weights:
        save_pretrained(model, folder / WEIGHTS)
    files.write_json(folder / DESCRIPTION, description.model_dump())


def read_adaptation(
    folder: str | Path,
    decoder: PretrainedDecoder | str | Path | None = None,
) -> AdaptationContent:
    """Reads a saved folder and the decoder that it belongs to; see ``Adaptation.load``."""
    folder = localize(folder)
    saved = _read_description(folder)
    prompt = _read_prompt(saved, folder / DESCRIPTION)
    question_format = _validate_question_format(saved, folder)
    model = _find_decoder(saved, folder, decoder)
    if model.fingerprint != saved.fingerprint:
        raise UserError(
            f"{folder}: belongs to another decoder than {model.path} "
            f"(fingerprint {saved.fingerprint}, found {model.fingerprint})"
        )
    if _hash_tokenizer(model) != saved.tokenizer:
        raise UserError(
            f"{folder}: the tokenizer, chat template or EOS of {model.path} has changed since, so "
            "it would not answer as it did; make the adaptation again"
        )
    soft_prompt = lora_weights = None
    if saved.before_bos is not None:
        soft_prompt = _read_soft_prompt(folder / SOFT_PROMPT, model, saved.before_bos)
    if saved.lora_weights:
        lora_weights = read_adapter(folder, model).lora_weights
        if lora_weights is None:
            raise UserError(f"{folder}: {ADAPTER_CONFIG} is no LoRA adapter")
        model = lora_weights.merge_into(model)
    return AdaptationContent(
        method=saved.method,
        prompt=prompt,
        model=model,
        soft_prompt=soft_prompt,
        lora_weights=lora_weights,
        has_full_weights=saved.has_full_weights,
        source_dtype=saved.source_dtype,
        question_format=question_format,
    )


def read_without_weights(
    folder: str | Path, decoder: str | Path | None = None
) -> tuple[str, Prompt, PretrainedDecoder, SoftPrompt | None]:
    """Method, prompt, decoder and soft prompt of a saved adaptation; no weights are loaded.

    Args:
        decoder: where its decoder is; by default where it was.

    Raises:
        UserError: the folder is no adaptation, or damaged, or its decoder is not there.
    """
    folder = Path(folder)
    saved = _read_description(folder)
    prompt = _read_prompt(saved, folder / DESCRIPTION)
    place = folder / WEIGHTS if saved.has_full_weights else decoder or saved.decoder
    if find_cached_folder(place) is None:
        raise UserError(f"{folder / DESCRIPTION}: its decoder {str(place)!r:.100} is not here")
    model = replace(load_without_weights(place, saved.context_length), path=str(place))
    soft_prompt = None
    if saved.before_bos is not None:
        soft_prompt = _read_soft_prompt(folder / SOFT_PROMPT, model, saved.before_bos)
    return saved.method, prompt, model, soft_prompt


def read_question_format(folder: str | Path) -> QuestionFormat | None:
    """How the task of a saved adaptation reads questions; the decoder is not loaded.

    Raises:
        UserError: the folder is no adaptation, or damaged.
    """
    folder = localize(folder)
    return _validate_question_format(_read_description(folder), folder)


def _validate_question_format(saved: SavedAdaptation, folder: Path) -> QuestionFormat | None:
    if saved.question_format is None:
        return None
    where = f"{folder / DESCRIPTION}: question_format"
    return validate(QuestionFormat, saved.question_format, where)


def _read_description(folder: Path) -> SavedAdaptation:
    """adaptation.json, which agrees with the files beside it."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder}: no adaptation here ({DESCRIPTION} not found)")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if content.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format {content.get('format')!r:.50}; expected {FORMAT_VERSION}, so it has "
            "to be made again by this version of adapt_jax"
        )
    saved = validate(SavedAdaptation, content, str(path))
    for key, is_expected, name in (
        ("soft_prompt", saved.soft_prompt, SOFT_PROMPT),
        ("lora_weights", saved.lora_weights, ADAPTER_CONFIG),
        ("has_full_weights", saved.has_full_weights, WEIGHTS),
    ):
        if is_expected != (folder / name).exists():
            found = "is not there" if is_expected else "is there"
            raise UserError(f"{path}: {key} is {str(is_expected).lower()}, but {name} {found}")
    if saved.soft_prompt != (saved.before_bos is not None):
        expected = "true or false" if saved.soft_prompt else "null, as there is no soft prompt"
        raise UserError(f"{path}: before_bos: expected {expected}, found {saved.before_bos!r}")
    if saved.lora_weights and saved.has_full_weights:
        raise UserError(f"{path}: lora_weights and has_full_weights are both true; expected one")
    return saved


def _read_prompt(saved: SavedAdaptation, path: Path) -> Prompt:
    try:
        return Prompt.from_dict(saved.prompt)
    except KeyError as problem:
        raise UserError(f"{path}: damaged, prompt: {problem} is missing") from None
    except TypeError as problem:
        raise UserError(f"{path}: damaged, {problem}") from None
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None


def _find_decoder(
    saved: SavedAdaptation, folder: Path, decoder: PretrainedDecoder | str | Path | None
) -> PretrainedDecoder:
    """The decoder that an adaptation runs on, LoRA weights not yet merged."""
    load = partial(load_pretrained, dtype=saved.dtype, context_length=saved.context_length)
    if saved.has_full_weights:
        place: str | Path | None = folder / WEIGHTS
    elif isinstance(decoder, PretrainedDecoder):
        return decoder
    else:
        place = decoder or find_cached_folder(saved.decoder)  # the user may name it
    if place is None:
        raise UserError(
            f"{folder / DESCRIPTION}: its decoder {saved.decoder[:100]!r} is not on this machine, "
            "and nothing is fetched because a file names it; say where it is with --decoder"
        )
    kept = find_kept_folder(folder)
    record = None if kept is None else FingerprintRecord(kept, place)
    model = load(place)
    if decoder is None and not saved.has_full_weights:
        model = replace(model, path=saved.decoder)
    if record is not None:
        record.restore_or_save(model)
    return model


def _hash_tokenizer(model: PretrainedDecoder) -> str:
    """A hash that the same tokenizer has in every release of its library."""
    found = describe_tokenizer(model.tokenizer)
    # as one text: ``identity`` takes a second or more for a large mapping
    vocabulary = model.tokenizer.get_vocab()
    words = sorted(vocabulary)
    found["vocabulary"] = json.dumps([words, [vocabulary[word] for word in words]])
    found["probe"] = model.encode(TOKENIZER_PROBE)
    return identity(found, model.config.bos_id, sorted(model.config.eos_ids))


def _read_soft_prompt(path: Path, model: PretrainedDecoder, before_bos: bool) -> SoftPrompt:
    """The learned embeddings: [P, D] of this decoder, [N, P, D] of an ensemble."""
    tensors = read_tensors(path)
    if tensors.keys() != {PROMPT_EMBEDDINGS}:
        raise UserError(
            f"{path}: expected the tensor {PROMPT_EMBEDDINGS} alone, found {sorted(tensors)}"
        )
    embeddings = tensors[PROMPT_EMBEDDINGS]
    if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != model.config.input_dim:
        raise UserError(
            f"{path}: shape {embeddings.shape}, but the embeddings of {model.path} "
            f"have size {model.config.input_dim}"
        )
    if embeddings.size == 0:
        raise UserError(f"{path}: shape {embeddings.shape}; expected at least one embedding")
    if embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
        raise UserError(f"{path}: expected finite float32 embeddings, found {embeddings.dtype}")
    return SoftPrompt(jnp.asarray(embeddings), before_bos)
