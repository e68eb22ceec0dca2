"""Pretraining from scratch: tokenizer, corpus and the next-token objective on plain documents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from adapt_jax.decoders.config import DecoderConfig, LayerKind
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.decoders.rope import Rope
from adapt_jax.decoders.saving import save_pretrained
from adapt_jax.tuning.batches import Shape, TrainingExample
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig
from adapt_jax.tuning.trainer import OnStep, TrainingResult, train

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

    ``rows`` times ``training.row_length`` tokens are a step; ``training.batch_size`` documents
    are packed into them, and the few that find no room are left out.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    seed: int = 0
    corpus_seed: int = 0
    vocab_size: int = Field(1024, gt=300)
    tokenizer_documents: int = Field(4000, gt=0)
    decoder: DecoderShape = DecoderShape()
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


class Documents:
    """A generated corpus as a random-access source of training examples (Grain's protocol)."""

    def __init__(
        self, draw: Callable[[int], str], count: int, tokenizer: Any, row_length: int
    ) -> None:
        self.draw, self.count, self.row_length = draw, count, row_length
        self.tokenizer, self.eos = tokenizer, tokenizer.eos_token_id

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> TrainingExample:
        text = self.draw(int(index))
        tokens = [*self.tokenizer(text, truncation=False, verbose=False)["input_ids"], self.eos]
        return TrainingExample(str(index), tuple(tokens[: self.row_length]), 1)


def pretrain(
    config: PretrainingConfig, folder: Path, on_step: OnStep | None = None
) -> TrainingResult:
    """Makes tokenizer and decoder, trains, and writes a Hugging Face folder.

    Beside the folder's usual files it writes ``loss_curve.json`` (nats per token of every step).
    An interrupted run goes on where its last checkpoint stands.
    """
    from adapt_jax.tasks.arithmetic import corpus

    drawn = [corpus.document(config.corpus_seed, i) for i in range(config.tokenizer_documents)]
    tokenizer = make_tokenizer(drawn, config.vocab_size, config.decoder.context_length)
    decoder = Decoder(
        DecoderConfig(
            family="LlamaForCausalLM",
            vocab_size=len(tokenizer),
            tie_embeddings=True,
            bos_id=tokenizer.bos_token_id,
            eos_ids=(tokenizer.eos_token_id,),
            pad_id=tokenizer.pad_token_id,
            layer_kinds=(LayerKind(Rope(theta=config.decoder.rope_theta)),),
            **config.decoder.model_dump(exclude={"rope_theta"}),
        ),
        rngs=nnx.Rngs(config.seed),
    )
    training = config.training
    row_length = training.row_length or config.decoder.context_length
    documents = Documents(
        lambda index: corpus.document(config.corpus_seed, index),
        training.steps * training.batch_size,
        tokenizer,
        row_length,
    )
    result = train(
        TunedDecoder(decoder),
        nnx.Param,
        documents,  # type: ignore[arg-type]
        training,
        seed=config.seed,
        shape=Shape(config.rows, row_length, config.rows * row_length),
        folder=folder / "training",
        on_step=on_step,
        about=config.model_dump(exclude={"training", "seed"}),
    )
    save_pretrained(PretrainedDecoder(decoder, tokenizer, str(folder)), folder)
    curve = [round(float(np.float32(loss)), 5) for loss in result.losses]
    (folder / "loss_curve.json").write_text(json.dumps(curve) + "\n")
    return result
