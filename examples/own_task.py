"""A task of your own, from a CSV file: which department answers a customer's message?

    python examples/own_task.py

The embedded decoder knows arithmetic only, so that its accuracy here is low: name a Hugging Face
folder in `decoder` to see what yours does. The labels are chosen by their likelihood.
"""

import csv
from pathlib import Path

import adapt_jax

MESSAGES = [
    ("My card was charged twice this month.", "billing"),
    ("How do I reset my password?", "account"),
    ("The parcel has not arrived yet.", "shipping"),
    ("Please send me an invoice for March.", "billing"),
    ("I cannot log in any more.", "account"),
    ("Where is my order?", "shipping"),
    ("I want my money back.", "billing"),
    ("Please change my e-mail address.", "account"),
    ("The box was empty when it came.", "shipping"),
    ("Why is there a fee on my bill?", "billing"),
    ("Delete my profile, please.", "account"),
    ("Can you send it to another street?", "shipping"),
]

folder = Path("runs/example_own_task")
folder.mkdir(parents=True, exist_ok=True)
with (folder / "messages.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "department"])
    writer.writerows(MESSAGES)

comparison = adapt_jax.compare(
    {
        "decoder": "embedded",
        "task": {
            "name": "departments",
            "source": {"name": "csv", "path": str(folder / "messages.csv")},
            "fields": {"question": "text", "answer": "department"},
            "choices": ["billing", "account", "shipping"],
            "instruction": "Which department answers this message?",
            "answer_parser": "label",
            "splits": {"train": 6, "test": 6},
        },
        "methods": {
            "zero_shot": {"answer_by": "likelihood"},
            "few_shot": {"answer_by": "likelihood", "demonstrations": 3},
        },
    },
    output_dir=folder,
)
for name in ("zero_shot", "few_shot"):
    print(f"{name:<12}{100 * comparison[name].accuracy:.0f} %")
