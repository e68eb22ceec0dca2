"""Prompt tuning, then an export that PEFT loads.

    python examples/prompt_tuning_to_peft.py

The few steps here show the way, not the accuracy; configs/tune/prompt_tuning.yaml takes 300.
"""

import shutil
from pathlib import Path

import adapt_jax

adaptation = adapt_jax.tune(
    {
        "decoder": "embedded",
        "task": {
            "name": "arithmetic",
            "source": {"name": "arithmetic"},
            "instruction": "Solve the problem. Give the answer as a number.",
            "splits": {"train": 200, "development": 20, "test": 20},
        },
        "method": {
            "name": "prompt_tuning",
            "length": 8,
            "training": {"steps": 10, "batch_size": 8, "learning_rate": 0.02},
        },
    },
    output_dir="runs/example_prompt_tuning",
)
print(adaptation.ask("Jane has 2 apples and bought 3 more. How many has she?").answer)

exported = Path("runs/example_prompt_tuning/peft")
shutil.rmtree(exported, ignore_errors=True)
adapt_jax.export_adaptation(adaptation, exported, format="peft")
print(sorted(file.name for file in exported.iterdir()))
print((exported / "README.md").read_text())
