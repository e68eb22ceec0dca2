"""Tasks of lm-evaluation-harness over data of their own: one of every output type, and variants.

Nothing is downloaded: the YAML files name JSON files beside them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

__all__ = ["TASKS", "write_tasks"]

NAMES = ("Jane", "Joe", "Ann", "Zoë", "李雷", "Müller")
THINGS = ("apples", "oranges", "books", "🙂 stickers", "pens")
# name -> what the task file says beside the data
TASKS: dict[str, dict[str, Any]] = {
    "mc_random_shots": {
        "output_type": "multiple_choice",
        "description": "Answer the questions.\n\n",
        "num_fewshot": 2,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "mc_shared_shots": {
        "output_type": "multiple_choice",
        "num_fewshot": 3,
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_mutual_info"}],
    },
    "mc_letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer: ",
        "doc_to_choice": ["A", "B", "C"],
        "target_delimiter": "",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' ' + text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity"},
            {"metric": "byte_perplexity"},
            {"metric": "bits_per_byte"},
        ],
    },
    "sums": {
        "output_type": "generate_until",
        "num_fewshot": 2,
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "Question"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "free_text": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["e o", "."], "max_gen_toks": 20},
        "metric_list": [{"metric": "bleu"}, {"metric": "chrf"}],
    },
}


def write_tasks(folder: Path, *, documents: int = 6, sentences: int = 3) -> Path:
    """Writes the task files and their data into a folder, and returns it.

    Args:
        documents: of each task.
        sentences: of the longest text, times the number of the document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)

    def pick(words: tuple[str, ...]) -> str:
        return words[int(draws.integers(len(words)))]

    def write_document(number: int) -> dict[str, Any]:
        first, second = (int(one) for one in draws.integers(1, 30, 2))
        name, thing = pick(NAMES), pick(THINGS)
        text = f"{name} has {first} {thing} and gets {second} more, so {name} has {first + second}."
        return {
            "question": f"{name} has {first} {thing} and gets {second} more. How many?",
            "answer": str(first + second),
            "choices": [f"{first + second} {thing}", f"{first} {thing}", f"{second}"],
            "gold": 0,
            "text": " ".join([text] * (1 + number * sentences // documents)),
        }

    for split, count in (("train", 8), ("test", documents)):
        rows = [json.dumps(write_document(number)) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    for name, task in TASKS.items():
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
            "training_split": "train",
            "test_split": "test",
            **task,
        }
        text = yaml.safe_dump(whole, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder
