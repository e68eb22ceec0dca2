#!/usr/bin/env python3
"""Fetches the public data sets that configs/ names, into data/ of this repository.

    python launch/fetch_data.py gsm8k banking77 pubmedqa mawps self_instruct     # about 9 MB
    python launch/fetch_data.py metamathqa                         # about 400 MB

Files come from their authors' repositories and are checked against their SHA-256. What is there
already is kept. Needs nothing but Python 3.11.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
GITHUB = "https://raw.githubusercontent.com"
GSM8K = f"{GITHUB}/openai/grade-school-math/master/grade_school_math/data"
BANKING77 = f"{GITHUB}/PolyAI-LDN/task-specific-datasets/master/banking_data"
PUBMEDQA = f"{GITHUB}/pubmedqa/pubmedqa/master/data"
MAWPS = f"{GITHUB}/reasoning-machines/pal/main/datasets"
SELF_INSTRUCT = f"{GITHUB}/yizhongw/self-instruct/main/data"
METAMATHQA = "https://huggingface.co/datasets/meta-math/MetaMathQA/resolve/main"
# by data set and file: the address, and the SHA-256 (MetaMathQA's is not pinned by its authors)
FILES = {
    "gsm8k": {
        "train.jsonl": (
            f"{GSM8K}/train.jsonl",
            "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        ),
        "test.jsonl": (
            f"{GSM8K}/test.jsonl",
            "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ),
    },
    "banking77": {
        "train.csv": (
            f"{BANKING77}/train.csv",
            "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        ),
        "test.csv": (
            f"{BANKING77}/test.csv",
            "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        ),
        "categories.json": (
            f"{BANKING77}/categories.json",
            "53261da888122daf2d120d925458631d9619e15d82e56052e7a42e535ce32b63",
        ),
    },
    "pubmedqa": {
        "ori_pqal.json": (
            f"{PUBMEDQA}/ori_pqal.json",
            "8b3276be8942ebbd77f3ddcda12c1749bf0e490045a736fd8438ee40cf37a41d",
        ),
        "test_ground_truth.json": (
            f"{PUBMEDQA}/test_ground_truth.json",
            "939fe566f09017d13b1ca64d2ddfee0bc2374b366048152997669cccedc44d51",
        ),
    },
    "mawps": {
        "addsub.jsonl": (
            f"{MAWPS}/mawpsaddsub.jsonl",
            "2fae2c92530cdf1ac0487db9a90e68d6af84049d755c07c4486411c1d7f43e75",
        ),
        "multiarith.jsonl": (
            f"{MAWPS}/mawpsmultiarith.jsonl",
            "12e8295088364af21fb6591dbdbd1dda452aade57227f63d725677471ded2951",
        ),
        "singleeq.jsonl": (
            f"{MAWPS}/mawpssingleeq.jsonl",
            "07bec92bae226dd5231a966e907a0f097ba3170a1557c73ceeb135caad8d09f8",
        ),
    },
    "self_instruct": {
        "seed_tasks.jsonl": (
            f"{SELF_INSTRUCT}/seed_tasks.jsonl",
            "7779004fa198fdf27cf70a159363879d8a26c53329e11b436af17b3941875f48",
        ),
    },
    "metamathqa": {"MetaMathQA-395K.json": (f"{METAMATHQA}/MetaMathQA-395K.json", None)},
}
MAX_CHARACTERS = 1300  # of question and answer together, as in PEFT's comparison
FINAL_ANSWER = re.compile(r"\s*(?:####.*\s*)?The answer is:\s*(-?[\d,]*\.?\d+)\.?\s*$")


def fetch(name: str, data: Path) -> None:
    """Fetches the files of a data set that are not there.

    Raises:
        OSError: a file cannot be fetched or written.
        ValueError: a file is not the one that is expected.
    """
    for file, (address, checksum) in FILES[name].items():
        path = data / name / file
        if path.exists():
            print(f"{path}: there already")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{path}: from {address}", flush=True)
        with urllib.request.urlopen(address) as response:
            content = response.read()
        found = hashlib.sha256(content).hexdigest()
        if checksum is not None and found != checksum:
            raise ValueError(f"{address}: its SHA-256 is {found}, expected {checksum}")
        write(path, content)
    if name == "metamathqa":
        rows = json.loads((data / name / "MetaMathQA-395K.json").read_text(encoding="utf-8"))
        lines = "".join(json.dumps(row) + "\n" for row in convert_metamathqa(rows))
        write(data / name / "train.jsonl", lines.encode())


def convert_metamathqa(rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The rows in the form of GSM8K, with "#### ANSWER" at the end.

    Left out are texts longer than MAX_CHARACTERS, and answers that are no plain number (a part of
    the questions that come from MATH).
    """
    for row in rows:
        question, response = row["query"], row["response"]
        found = FINAL_ANSWER.search(response)
        if found and len(question) + len(response) + 1 <= MAX_CHARACTERS:
            reasoning = response[: found.start()]
            if reasoning.strip():
                yield {"question": question, "answer": f"{reasoning}\n#### {found[1]}"}


def write(path: Path, content: bytes) -> None:
    """Writes a file beside its place, then puts it there."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_bytes(content)
    os.replace(beside, path)


def main() -> None:
    """Fetches what the command line names."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="+", choices=FILES)
    for name in parser.parse_args().name:
        try:
            fetch(name, DATA)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {name}: {error}")


if __name__ == "__main__":
    main()
