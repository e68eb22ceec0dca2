"""Searched demonstrations against random ones, on a held-out test, at an equal budget of questions.

    python -m benchmarks.search --data ../shared/data --decoder path/to/SmolLM2-135M

Three tasks: the embedded one with the embedded decoder (chain of thought), and BANKING77 (eight of
its labels) and PubMedQA (reasoning-free: the conclusion is given) with the decoder that is named,
which chooses by likelihood. Against `adapt-jax search`:

random search   as many random sets as the same number of development questions pays for, each on
                the whole development split; the best of them
random          single random sets, nothing asked of the development split

It continues where it stopped.
"""

import argparse
import csv
import json
import random
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.search import search
from adapt_jax.evaluation.evaluate import Evaluation, evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.significance import paired_difference, paired_p_value
from adapt_jax.methods.base import PromptingMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.prompt import Prompt, resolve_template
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.text_files import read_json_lines
from benchmarks.measuring import DTYPES

LABELS = (
    "card_arrival",
    "lost_or_stolen_card",
    "pin_blocked",
    "exchange_rate",
    "top_up_limits",
    "age_limit",
    "cancel_transfer",
    "card_not_working",
)
NUM_RANDOM = 3  # single random sets


def make_configs(data: Path, decoder: str, dtype: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration of the search on each task."""
    by_likelihood = {"name": "few_shot", "answer_by": "likelihood"}
    return {
        "arithmetic": {
            "decoder": "embedded",
            "dtype": "float32",
            "task": {
                "name": "arithmetic",
                "source": {"name": "arithmetic"},
                "instruction": "Solve the problem. Give the answer as a number.",
                "splits": {"train": 1000, "development": 100, "test": 300},
            },
            "method": {"name": "chain_of_thought", "demonstrations": 4, "max_new_tokens": 96},
            "max_questions": 800,
        },
        "banking77": {
            "decoder": decoder,
            "dtype": dtype,
            "task": {
                "name": "banking77",
                "source": {"name": "csv", **_select_labels(data, folder)},
                "fields": {"question": "text", "answer": "category"},
                "choices": list(LABELS),
                "instruction": "Name the intent of the customer's question.",
                "template": {"choice": "", "answer": " The intent is {answer}."},
                "answer_parser": "label",
                "splits": {"train": 400, "development": 60, "test": 160},
            },
            "method": {**by_likelihood, "demonstrations": 8},
            "max_questions": 480,
        },
        "pubmedqa": {
            "decoder": decoder,
            "dtype": dtype,
            "task": {
                "name": "pubmedqa",
                "source": {
                    "name": "json",
                    "path": str(data / "pubmedqa" / "ori_pqal.json"),
                    "test_ids": str(data / "pubmedqa" / "test_ground_truth.json"),
                },
                "fields": {
                    "id": "id",
                    "question": "{LONG_ANSWER}\n{QUESTION}",
                    "answer": "final_decision",
                },
                "choices": ["yes", "no", "maybe"],
                "template": {"choice": ""},
                "instruction": "Answer the question by yes, no or maybe.",
                "answer_parser": "yes_no",
                "splits": {"development": 60, "test": 160},
            },
            "method": {**by_likelihood, "demonstrations": 4},
            "max_questions": 480,
        },
    }


def _select_labels(data: Path, folder: Path) -> dict[str, str]:
    """The rows of BANKING77 with these labels, as files."""
    found = {}
    for split in ("train", "test"):
        with (data / "banking77" / f"{split}.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["category"] in LABELS]
        found[split] = str((folder / f"banking77_{split}.csv").resolve())
        with Path(found[split]).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)
    return found


def measure(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Test accuracies of the three ways, and paired differences."""
    found = search(config, folder / "searched", progress=False)
    searched = [
        bool(row["correct"])
        for _, row in read_json_lines(folder / "searched" / "predictions.jsonl")
    ]
    model = load_pretrained(config["decoder"], dtype=config["dtype"])
    task = resolve_template(load_task(config["task"], Path(".")), model)
    options = dict(config["method"])
    method = METHODS[options.pop("name")].model_validate(options)
    assert isinstance(method, PromptingMethod)

    # as many random sets as the same questions pay for
    count = max(1, found.asked // len(task.development))
    prompts = [_draw(method, model, task, number) for number in range(max(count, NUM_RANDOM))]
    on_development = [
        _evaluate(model, one, task, "development", folder).accuracy for one in prompts[:count]
    ]
    best = max(range(count), key=on_development.__getitem__)
    random_search = _evaluate(model, prompts[best], task, "test", folder).correct
    singles = [_evaluate(model, one, task, "test", folder).correct for one in prompts[:NUM_RANDOM]]
    difference, low, high = paired_difference(searched, random_search)
    return {
        "questions": found.asked,
        "prompts": [len(found.tried), count],
        "development": [found.development.accuracy, on_development[best]],
        "searched": sum(searched) / len(searched),
        "random search": sum(random_search) / len(searched),
        "random": [sum(one) / len(one) for one in singles],
        "difference to random search": [difference, low, high],
        "p to random search": paired_p_value(searched, random_search),
        "p to each random": [paired_p_value(searched, one) for one in singles],
    }


def _draw(method: PromptingMethod, model: PretrainedDecoder, task: Task, number: int) -> Prompt:
    seed = random.Random(f"benchmark/{number}").randrange(2**32)
    return method.draw_prompt(model, task, seed)


def _evaluate(
    model: PretrainedDecoder, prompt: Prompt, task: Task, split: str, folder: Path
) -> Evaluation:
    """The evaluation of a prompt, which an earlier run may have begun."""
    adaptation = Adaptation("few_shot", prompt, model)
    examples = getattr(task, split)
    work = identity(adaptation.identity, examples)
    return evaluate(
        adaptation, task, examples, journal=Journal(folder / f"{split}-{work}.jsonl", work)
    )


def main() -> None:
    """Measures the tasks, and writes FOLDER/results.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of that decoder")
    parser.add_argument("--output", type=Path, default=Path("runs/search_benchmark"))
    parser.add_argument("--tasks", default="arithmetic,banking77,pubmedqa")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    configs = make_configs(options.data, options.decoder, options.dtype, options.output)
    for name in options.tasks.split(","):
        if name not in results:
            results[name] = measure(configs[name], options.output / name)
            path.write_text(json.dumps(results, indent=1))
        print(name, json.dumps(results[name]))


if __name__ == "__main__":
    main()
