"""Pretraining, from scratch or going on from a decoder: the next token of plain documents."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.rope import Rope
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.documents import Documents, read_documents, windows
from adapt_jax.training.examples import cast_params
from adapt_jax.training.packing import BatchShape, TrainingExample
from adapt_jax.training.trainer import OnStep, TrainingResult, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.config import MeshConfig, find
from adapt_jax.utils.errors import UserError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


class DecoderShape(BaseModel):
    """A Llama-shaped decoder to be made (fields as in DecoderConfig)."""

    model_config = ConfigDict(extra="forbid")
    embed_dim: int = 128
    ffn_dim: int = 384
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    context_length: int = 512
    rope_theta: float = 10000.0


class PretrainingConfig(BaseModel):
    """A pretraining run, whole: running it again gives the same loss curve up to float noise.

    ``decoder`` is the shape of one to be made, or a Hugging Face folder to go on from. ``corpus``
    are .txt and .jsonl ({"text"}) files; a step takes ``training.batch_size`` windows of them.
    Without it the embedded task's corpus is generated: ``rows`` times ``training.row_length``
    tokens are a step then; ``training.batch_size`` documents are packed into them, and the few that
    find no room are left out. ``development`` are files that ``training.validate_every`` measures.
    ``context_length`` declares a folder's decoder for texts of another length than it says itself.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    seed: int = 0
    corpus_seed: int = 0
    vocab_size: int = Field(1024, gt=300)
    tokenizer_documents: int = Field(4000, gt=0)
    decoder: DecoderShape | str = DecoderShape()
    corpus: list[str] | None = Field(None, min_length=1)
    development: list[str] | None = Field(None, min_length=1)
    context_length: int | None = Field(None, gt=0)
    mesh: MeshConfig | None = None
    rows: int = Field(16, gt=0)
    training: TrainingConfig


def make_tokenizer(documents: list[str], vocab_size: int, context_length: int) -> Any:
    """A byte-level BPE tokenizer: any text can be encoded; digits and line ends stand apart."""
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

    Beside the folder's usual files it writes ``loss_curve.json`` (nats per token of every step).
    An interrupted run goes on where its last checkpoint stands.

    Args:
        base: the folder that relative paths of the configuration start from.

    Raises:
        UserError: a decoder or a file that cannot be read; nothing has been written then.
    """
    mesh = None if config.mesh is None else make_mesh(**config.mesh.model_dump())
    if config.corpus is None and config.training.packing == "none":
        raise UserError("training.packing none: a generated corpus is packed; expected best_fit")
    texts, held_out = _texts(config.corpus, base), _texts(config.development, base)
    model = _begin(config, texts, base, mesh)
    dtypes = cast_params(
        model.decoder, nnx.Param, jnp.float32
    )  # bfloat16 would swallow small updates
    training, context = config.training, model.config.context_length
    row_length = training.row_length or context
    if row_length > context:
        raise UserError(
            f"training.row_length {row_length} is more than the decoder's context of {context}"
        )

    def examples(texts: dict[str, str]) -> list[TrainingExample]:
        return windows(texts, model.encode, next(iter(model.config.eos_ids), None), row_length)

    documents: Any
    shape = None
    if texts is not None:
        documents = examples(texts)
        training = training.model_copy(update={"row_length": row_length})
    else:
        documents = Documents(
            partial(_generated, config),
            training.steps * training.batch_size,
            model.tokenizer,
            row_length,
        )
        shape = BatchShape(config.rows, row_length, config.rows * row_length)
    result = train(
        TunedDecoder(model.decoder),
        nnx.Param,
        documents,
        training,
        seed=config.seed,
        shape=shape,
        folder=folder / "training",
        mesh=mesh,
        on_step=on_step,
        run_metadata=config.model_dump(exclude={"training", "seed", "mesh"}),
        validation=None if held_out is None else Validation(examples(held_out)),
    )
    cast_params(model.decoder, nnx.Param, dtypes)
    save_pretrained(replace(model, path=str(folder)), folder)
    curve = [round(float(np.float32(loss)), 5) for loss in result.losses]
    (folder / "loss_curve.json").write_text(json.dumps(curve) + "\n")
    return result


def _texts(names: list[str] | None, base: Path) -> dict[str, str] | None:
    return None if names is None else read_documents([Path(find(name, base)) for name in names])


def _generated(config: PretrainingConfig, index: int) -> str:
    """A document of the embedded task's corpus."""
    from adapt_jax.tasks.arithmetic import corpus

    return corpus.draw_document(config.corpus_seed, index)


def _begin(
    config: PretrainingConfig, texts: dict[str, str] | None, base: Path, mesh: Mesh | None
) -> PretrainedDecoder:
    """The decoder to go on from, or one that is made, with a tokenizer of its own."""
    if isinstance(config.decoder, str):
        folder = find(config.decoder, base)
        return load_pretrained(folder, mesh=mesh, context_length=config.context_length)
    if config.context_length is not None:
        raise UserError("context_length: a new decoder's stands in its shape, decoder")
    if texts is None:
        drawn = [_generated(config, index) for index in range(config.tokenizer_documents)]
    else:
        drawn = list(texts.values())[: config.tokenizer_documents]
    tokenizer = make_tokenizer(drawn, config.vocab_size, config.decoder.context_length)
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
