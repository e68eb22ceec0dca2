"""The training step of tunix's PeftTrainer on its own Llama: padded on the right to the longest.

All of it is tunix's: the step compiled as ``train`` has it, the default loss, LoRA by Qwix.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput
from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

from benchmarks.peers.tunix_llama import load_llama
from benchmarks.tuning import EXAMPLES, RANK, RATE, Step, make_examples, serve

LINEAR = ".*(q|k|v|o|gate|up|down)_proj"  # every projection of a layer, as on the other sides


def tunix(method: str, folder: Path) -> Step:
    """A training step as a user of tunix has it."""
    model = load_llama(folder)
    if method == "lora":
        provider = qwix.LoraProvider(module_path=LINEAR, rank=RANK, alpha=2.0 * RANK)
        shown = model.get_model_input()
        model = qwix.apply_lora_to_model(model, provider, rngs=nnx.Rngs(0), **shown)
    trainer = PeftTrainer(model, optax.adamw(RATE[method]), TrainingConfig(eval_every_n_steps=1))

    def model_input(batch: TrainingInput) -> dict[str, object]:
        real = batch.input_tokens != 0  # the mask of the input tells the targets
        return {
            "input_tokens": batch.input_tokens,
            "input_mask": batch.input_mask,
            "positions": build_positions_from_mask(real),
            "attention_mask": make_causal_attn_mask(real),
        }

    trainer.with_gen_model_input_fn(model_input)
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    examples = make_examples()
    width = max(len(tokens) for tokens, _ in examples)
    ids, targets = np.zeros((EXAMPLES, width), np.int32), np.zeros((EXAMPLES, width), bool)
    for row, (tokens, start) in enumerate(examples):
        ids[row, : len(tokens)], targets[row, start : len(tokens)] = tokens, True
    print(f"padded to {ids.shape}", file=sys.stderr)

    def run() -> float:
        loss, _, norm = step(TrainingInput(input_tokens=ids, input_mask=targets))
        jax.block_until_ready((nnx.state(model), norm))
        return float(loss)

    return run


if __name__ == "__main__":
    serve(tunix, sys.argv[1], Path(sys.argv[2]))
