"""Pretraining, from scratch or going on from a decoder: the next token of plain documents."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from pydantic import Field, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.rope import Rope
from adapt_jax.decoders.sharding import choose_mesh
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.documents import Documents, cut_windows, read_documents
from adapt_jax.training.examples import cast_params
from adapt_jax.training.packing import BatchShape
from adapt_jax.training.trainer import OnStep, TrainingData, TrainingResult, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.config import MAX_SEED, MeshConfig, Strict, find_decoder, find_path
from adapt_jax.utils.distributed import barrier, is_main_process
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import write_text

__all__ = ["DecoderShape", "PretrainingConfig", "make_tokenizer", "pretrain"]

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
Size = Annotated[int, Field(gt=0, le=2**24)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class DecoderShape(Strict):
    """A Llama-shaped decoder to be made (fields as in DecoderConfig)."""

    embed_dim: Size = 128
    ffn_dim: Size = 384
    num_layers: int = Field(6, gt=0, le=1000)
    num_heads: Size = 4
    num_kv_heads: Size = 2
    head_dim: Size = 32
    context_length: Size = 512
    rope_theta: float = Field(10000.0, gt=0, le=1e12)


class PretrainingConfig(Strict):
    """A whole pretraining run; running it again gives the same loss curve up to float noise."""

    name: str
    seed: Seed = Field(0, description="of the parameters and the order of the data")
    corpus_seed: Seed = Field(0, description="of the generated corpus")
    vocab_size: int = Field(1024, gt=300, le=2**24, description="of a new decoder's tokenizer")
    tokenizer_documents: int = Field(
        4000, gt=0, le=10**9, description="documents that the tokenizer is trained on"
    )
    decoder: DecoderShape | str = Field(
        DecoderShape(), description="the shape of a new decoder, or a Hugging Face folder"
    )
    corpus: list[str] | None = Field(
        None,
        min_length=1,
        description='.txt and .jsonl ({"text"}) files, of which a step takes training.batch_size '
        "windows. Without them the corpus of the embedded task is generated: a step packs "
        "training.batch_size documents into `rows` times training.row_length tokens, and the few "
        "that find no room are left out",
    )
    development: list[str] | None = Field(
        None, min_length=1, description="files that training.validate_every measures"
    )
    context_length: Size | None = Field(
        None, description="of a folder's decoder, for texts of another length than it says itself"
    )
    mesh: MeshConfig | None = None
    rows: int = Field(16, gt=0, le=10**6, description="of a batch of the generated corpus")
    training: TrainingConfig

    @model_validator(mode="after")
    def _check_development(self) -> "PretrainingConfig":
        if self.training.validate_every and self.development is None:
            raise ValueError("training.validate_every measures the files of development; name some")
        if self.development is not None and not self.training.validate_every:
            raise ValueError("development is measured by training.validate_every; set it too")
        return self


def make_tokenizer(documents: list[str], vocab_size: int, context_length: int) -> Any:
    """A byte-level BPE tokenizer: any text can be encoded, digits and line ends one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\n"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def pretrain(
    config: PretrainingConfig,
    folder: Path,
    on_step: OnStep | None = None,
    *,
    base: Path = Path(),
) -> TrainingResult:
    """Trains every parameter on plain text, and writes a Hugging Face folder.

    Beside the folder's usual files it writes ``loss_curve.json`` (nats per token of every step). An
    interrupted run continues from its last checkpoint.

    Args:
        base: the folder that relative paths of the configuration start from.

    Raises:
        UserError: a decoder or a file that cannot be read; nothing has been written then.
    """
    if config.corpus is None and config.training.packing == "none":
        raise UserError("training.packing none: a generated corpus is packed; expected best_fit")
    mesh = choose_mesh(config.mesh)
    texts, development = _read_texts(config.corpus, base), _read_texts(config.development, base)
    model = _load_or_make(config, texts, base, mesh)
    row_length = _choose_row_length(config, model)
    data = _make_data(config, model, texts, development, row_length)

    dtypes = cast_params(
        model.decoder,
        nnx.Param,
        jnp.float32,  # bfloat16 would swallow small updates
    )
    training = config.training
    if texts is not None:
        training = training.model_copy(update={"row_length": row_length})
    result = train(
        TunedDecoder(model.decoder),
        nnx.Param,
        data,
        training,
        seed=config.seed,
        folder=folder / "training",
        mesh=mesh,
        on_step=on_step,
        run_metadata=config.model_dump(exclude={"training", "seed", "mesh"}),
    )
    cast_params(model.decoder, nnx.Param, dtypes)
    save_pretrained(replace(model, path=str(folder)), folder)
    curve = [round(float(np.float32(loss)), 5) for loss in result.losses]
    if is_main_process():
        write_text(folder / "loss_curve.json", json.dumps(curve) + "\n")
    barrier("decoder written")
    return result


def _read_texts(names: list[str] | None, base: Path) -> dict[str, str] | None:
    return None if names is None else read_documents([find_path(name, base) for name in names])


def _choose_row_length(config: PretrainingConfig, model: PretrainedDecoder) -> int:
    """Tokens of a row: as configured, or the decoder's whole context.

    Raises:
        UserError: rows longer than the context.
    """
    context = model.config.context_length
    row_length = config.training.row_length or context
    if row_length > context:
        raise UserError(
            f"training.row_length {row_length} is more than the decoder's context of {context}"
        )
    return row_length


def _make_data(
    config: PretrainingConfig,
    model: PretrainedDecoder,
    texts: dict[str, str] | None,
    development: dict[str, str] | None,
    row_length: int,
) -> TrainingData:
    """The texts in windows, or the generated corpus as an endless source with its batch shape."""
    eos = next(iter(model.config.eos_ids), None)
    validation = None
    if development is not None:
        validation = Validation(cut_windows(development, model.encode, eos, row_length))
    if texts is not None:
        return TrainingData(
            cut_windows(texts, model.encode, eos, row_length), validation=validation
        )
    documents: Any = Documents(
        partial(_generate_document, config),
        config.training.steps * config.training.batch_size,
        model.tokenizer,
        row_length,
    )
    shape = BatchShape(config.rows, row_length, config.rows * row_length)
    return TrainingData(documents, shape=shape, validation=validation)


def _generate_document(config: PretrainingConfig, index: int) -> str:
    """A document of the embedded task's corpus."""
    from adapt_jax.tasks.arithmetic import corpus

    return corpus.draw_document(config.corpus_seed, index)


def _load_or_make(
    config: PretrainingConfig, texts: dict[str, str] | None, base: Path, mesh: Mesh | None
) -> PretrainedDecoder:
    """The decoder of a folder, or a new one with a tokenizer of its own."""
    if isinstance(config.decoder, str):
        folder = find_decoder(config.decoder, base)
        return load_pretrained(folder, mesh=mesh, context_length=config.context_length)
    if config.context_length is not None:
        raise UserError("context_length: a new decoder has its own, decoder.context_length")
    if texts is None:
        sample = [_generate_document(config, index) for index in range(config.tokenizer_documents)]
    else:
        sample = list(texts.values())[: config.tokenizer_documents]
    tokenizer = make_tokenizer(sample, config.vocab_size, config.decoder.context_length)
    decoder = Decoder(
        DecoderConfig(
            family="LlamaForCausalLM",
            vocab_size=len(tokenizer),
            tie_embeddings=True,
            bos_id=tokenizer.bos_token_id,
            eos_ids=(tokenizer.eos_token_id,),
            pad_id=tokenizer.pad_token_id,
            layer_configs=(LayerConfig(Rope(theta=config.decoder.rope_theta)),),
            **config.decoder.model_dump(exclude={"rope_theta"}),
        ),
        rngs=nnx.Rngs(config.seed),
    )
    return PretrainedDecoder(decoder, tokenizer, config.name)
