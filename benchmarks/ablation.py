"""What makes a training step fast, cause by cause: our own step, with one thing more in each line.

    python -m benchmarks.ablation --method prompt_tuning --size 15M

The first line is the peer (PEFT, or transformers for fine-tuning). The second is the same work in
its form (rows padded to the longest, the soft prompt repeated in each, logits at every position),
compiled as one function: forward, backward and update. Then come logits at targets alone, the
shared prefix, packing, and the cross-entropy in chunks, which is the step as the trainer makes it.
Each line is a process of its own; all step in turn, and the median of three is told.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.shapes import SIZES, write_llama
from benchmarks.tuning import (
    EXAMPLES,
    METHODS,
    RATE,
    Side,
    Step,
    make_examples,
    serve,
    start,
    write_examples,
)


@dataclass(frozen=True)
class Stage:
    """What a line's step does as the trainer does it."""

    targets: bool = False
    shared: bool = False
    packed: bool = False


STAGES = {
    "one compiled function": Stage(),
    "logits at targets": Stage(targets=True),
    "shared prefix": Stage(targets=True, shared=True),
    "packing": Stage(targets=True, shared=True, packed=True),
}


def stage_step(stage: Stage, method: str, folder: Path) -> Step:
    """A training step in the form of this stage."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from adapt_jax.decoders.attention import causal_mask
    from adapt_jax.decoders.prefix import encode_prefix
    from adapt_jax.training.batches import Batches
    from adapt_jax.training.config import TrainingConfig
    from adapt_jax.training.optimizers import make_optimizer
    from adapt_jax.training.packing import Batch, BatchShape, TrainingExample, pack

    model, chosen = start(method, folder)
    examples = [
        TrainingExample(str(number), tuple(tokens), first)
        for number, (tokens, first) in enumerate(make_examples())
    ]
    if stage.packed:
        shape = Batches(examples, EXAMPLES, 1, seed=0).shape
        batch, left_over = pack(examples, shape)
        assert not left_over
    else:  # an example a row, in their order
        width = max(len(example.tokens) for example in examples)
        shapes = [BatchShape(1, width, example.num_targets) for example in examples]
        rows = [pack([example], shape)[0] for example, shape in zip(examples, shapes, strict=True)]
        batch = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)
        at = [row.target_index + number * width for number, row in enumerate(rows)]
        batch = replace(batch, target_index=jnp.concatenate(at))
    graph, trainable, frozen = nnx.split(model, chosen, ...)
    config = TrainingConfig(learning_rate=RATE[method], schedule="constant", warmup_steps=0)
    update = make_optimizer(config)

    def loss(trainable: Any, frozen: Any, batch: Batch) -> jax.Array:
        model: Any = nnx.merge(graph, trainable, frozen)
        decoder, rows, prefix, prompt_prefix = model.decoder, len(batch.tokens), None, 0
        embeddings, segments = decoder.embed(batch.tokens), batch.segments
        positions = batch.positions
        if model.soft_prompt is not None:
            soft = model.soft_prompt.embeddings[...]
            prompt_prefix = len(soft)
            positions = positions + prompt_prefix
            if stage.shared:
                prefix, prompt_prefix = encode_prefix(decoder, soft).blocks, 0
            else:
                own = jnp.broadcast_to(soft, (rows, *soft.shape))
                embeddings = jnp.concatenate([own, embeddings], axis=1)
                segments = jnp.pad(segments, ((0, 0), (prompt_prefix, 0)), constant_values=1)
                counted = jnp.broadcast_to(jnp.arange(prompt_prefix), (rows, prompt_prefix))
                positions = jnp.concatenate([counted, positions], axis=1)
        hidden, _ = decoder(embeddings, positions, causal_mask(segments), prefix=prefix)
        hidden = hidden[:, prompt_prefix:].reshape(-1, hidden.shape[-1])
        if stage.targets:
            logits = decoder.logits(hidden[batch.target_index])
        else:
            logits = decoder.logits(hidden)
            logits = jax.nn.log_softmax(logits)[batch.target_index]  # torch's loss looks at all too
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.target_id)
        return (each * batch.target_weight).sum() / batch.target_weight.sum()

    @jax.jit(donate_argnums=(0, 1))
    def step(trainable: Any, slots: Any, frozen: Any, batch: Batch) -> Any:
        nats, gradient = jax.value_and_grad(loss)(trainable, frozen, batch)
        changes, slots = update.update(gradient, slots, trainable)
        return optax.apply_updates(trainable, changes), slots, nats

    state = (trainable, update.init(trainable))

    def run() -> float:
        nonlocal state
        *after, nats = step(*state, frozen, batch)
        state = (after[0], after[1])
        return float(jax.block_until_ready((state, nats))[1])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--size", choices=SIZES, default="15M")
    parser.add_argument("--steps", type=int, default=3, help="timed, after two that are not")
    parser.add_argument("--serve", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        stage = STAGES[options.serve]
        return serve(lambda *where: stage_step(stage, *where), options.method, options.folder)
    names = ["peer", *STAGES, "chunks of targets"]
    if options.method != "prompt_tuning":
        names.remove("shared prefix")
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_llama(Path(temporary) / "decoder", options.size)
        write_examples(folder, make_examples())
        sides = {}
        for name in names:
            own = ["-m", "benchmarks.ablation", "--serve", name] if name in STAGES else None
            kind = {"peer": "peer"}.get(name, "ours")
            command = None if own is None else [sys.executable, *own]
            sides[name] = Side(kind, options.method, folder, command)
        for _ in range(2):
            for side in sides.values():
                side.step()
        told = [
            {name: side.two_steps() for name, side in sides.items()} for _ in range(options.steps)
        ]
        for side in sides.values():
            side.close()
    for name in names:
        seconds = statistics.median(step[name]["s"] for step in told)
        peak, loss = told[-1][name]["mib"], told[0][name]["loss"]
        print(
            json.dumps(
                {"with": name, "s": round(seconds, 3), "peak_mib": round(peak), "loss": loss}
            )
        )
    return None


if __name__ == "__main__":
    main()
