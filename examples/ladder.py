"""The ladder from Python: two techniques on the embedded task, and which of them is enough.

    python examples/ladder.py

It takes under a minute; `adapt-jax compare configs/ladder.yaml` climbs all eight rungs.
"""

import adapt_jax

comparison = adapt_jax.compare(
    {
        "decoder": "embedded",
        "task": {
            "name": "arithmetic",
            "source": {"name": "arithmetic"},
            "instruction": "Solve the problem. Give the answer as a number.",
            "splits": {"train": 200, "development": 20, "test": 12},
        },
        "methods": {
            "zero_shot": {"max_new_tokens": 16},
            "chain_of_thought": {"demonstrations": 4, "max_new_tokens": 64},
        },
    },
    output_dir="runs/example_ladder",
)
for name in ("zero_shot", "chain_of_thought"):
    print(f"{name:<18}{100 * comparison[name].accuracy:.0f} %")

adaptation = comparison.adaptation(comparison.best)
question = "Jane has 2 apples. She bought 3 more. How many apples does she have in total?"
print(f"{comparison.best} says: {adaptation.ask(question).answer}")
