"""The steps of answering questions: prefix and questions are encoded, then sequences decoded."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.prefix import PrefixCaches, round_up
from adapt_jax.decoders.sharding import platform_of
from adapt_jax.inspection.abstract import (
    Tree,
    cast,
    replicate,
    shard_cache,
    shard_params,
    shard_rows,
)
from adapt_jax.inspection.workload import Program, Workload
from adapt_jax.methods.base import PromptingMethod
from adapt_jax.pretrained.loading import abstract_decoder
from adapt_jax.sampling import compiled, shapes
from adapt_jax.utils.errors import UserError

__all__ = ["make_decoding_programs"]


def make_decoding_programs(
    config: DecoderConfig, method: PromptingMethod, work: Workload, dtype: Any, mesh: Mesh | None
) -> list[Program]:
    """The programs of the engine, in the order in which it runs them.

    Raises:
        UserError: prefix, question and answer do not fit the context.
    """
    if work.prefix + work.length > config.context_length:
        raise UserError(
            f"{method.name}: {work.prefix} tokens of the prompt prefix and {work.length} of an "
            f"example are {work.prefix + work.length}; the context holds {config.context_length}"
        )
    graph, weights = nnx.split(abstract_decoder(config))
    decoder = _AbstractDecoder(config, graph, shard_params(cast(weights, dtype), mesh), dtype, mesh)
    prefix, programs = _make_prefix_program(decoder, work)

    # the cache has a row for each sequence
    slots = _count_slots(work, mesh)
    _, cache = _encode_questions(decoder, prefix, slots, shapes.pad_cache(work.length))
    cache = shard_cache(cache, mesh)

    # questions are encoded some at a time, and wait for a free slot
    width = shapes.pad_question(work.length - work.answer)
    shape = shapes.RunShape(
        slots,
        shapes.pad_cache(work.length),
        min(shapes.MAX_QUESTION_ROWS, slots if work.candidates is None else 1),
        shapes.limit_question_tokens(platform_of(mesh)),
        slots if method.stops_early else 1,
    )
    count, breadth = shape.count_rows(width), shape.count_batches(width)
    arguments, encoded = _encode_questions(decoder, prefix, count, width)
    waiting = replicate(_encode_questions(decoder, prefix, count * breadth, width)[1], mesh)
    programs.append(
        Program(
            "questions",
            {
                "parameters": decoder.weights,
                "prefix": prefix,
                "questions": replicate(encoded, mesh),
            },
            partial(compiled.encode_questions.lower, graph, decoder.weights, prefix, *arguments),
            co_resident={"cache": cache}
            | ({"earlier questions": waiting} if slots > count else {}),
        )
    )
    programs.append(_make_decoding_step(decoder, method, prefix, cache, waiting, slots))
    return programs


@dataclass(frozen=True)
class _AbstractDecoder:
    """A decoder as abstract arrays, and where they are placed."""

    config: DecoderConfig
    graph: Any
    weights: Tree
    dtype: Any
    mesh: Mesh | None


def _make_prefix_program(decoder: _AbstractDecoder, work: Workload) -> tuple[Tree, list[Program]]:
    """The encoded prefix, and the program that encodes it; none where there is no prefix."""
    config, mesh = decoder.config, decoder.mesh
    padded = shapes.pad_prefix(work.prefix)
    width = config.input_dim + config.num_layers * config.per_layer_embedding_dim
    embeddings = replicate(jax.ShapeDtypeStruct((padded, width), decoder.dtype), mesh)
    arguments = (embeddings, replicate(np.int32(0), mesh))
    encode = partial(compiled.encode_prompt_prefix, decoder.graph)
    encoded = jax.eval_shape(encode, decoder.weights, *arguments)
    prefix = replicate(jax.eval_shape(PrefixCaches.from_cache, encoded), mesh)
    if not padded:
        return prefix, []
    lower = partial(compiled.encode_prompt_prefix.lower, decoder.graph, decoder.weights, *arguments)
    return prefix, [Program("prefix", {"parameters": decoder.weights, "prefix": prefix}, lower)]


def _encode_questions(
    decoder: _AbstractDecoder, prefix: Tree, count: int, width: int
) -> tuple[Tree, Tree]:
    """Questions as the engine passes them (prefix, tokens, lengths); their keys and values."""
    numbers = np.zeros(count, np.int32)
    arguments = (numbers, np.zeros((count, width), np.int32), numbers)
    arguments = replicate(arguments, decoder.mesh)
    encode = partial(compiled.encode_questions, decoder.graph)
    return arguments, jax.eval_shape(encode, decoder.weights, prefix, *arguments)


def _make_decoding_step(
    decoder: _AbstractDecoder,
    method: PromptingMethod,
    prefix: Tree,
    cache: Tree,
    waiting: Tree,
    slots: int,
) -> Program:
    """The step that decodes the sequences in all slots."""
    config, mesh = decoder.config, decoder.mesh
    sampling = method.generation_config().sampling
    seen_tokens = config.vocab_size if sampling.repetition_penalty != 1 else 0
    state = shard_rows(compiled.SlotState.idle(slots, seen_tokens), mesh)
    key = replicate(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    lower = partial(
        compiled.decode_chunk.lower,
        decoder.graph,
        sampling,
        config.eos_ids,
        decoder.weights,
        prefix,
        cache,
        state,
        key,
    )
    return Program(
        "decoding step",
        {"parameters": decoder.weights, "prefix": prefix, "cache": cache, "batch/slots": state},
        lower,
        co_resident={"questions": waiting},
    )


def _count_slots(work: Workload, mesh: Mesh | None) -> int:
    """How many slots the engine makes: no more than a single question has candidates."""
    count = work.max_concurrent_sequences
    if work.candidates is not None:
        count = min(count, work.candidates)
    return count if mesh is None else round_up(count, mesh.shape["data"] * mesh.shape["fsdp"])
