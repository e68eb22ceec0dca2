"""A file is divided by content: neither the order of rows nor other rows decide where one goes."""

import random
from collections import Counter

import pytest

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.loading_rows import read_examples
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.tasks.splits import divide

SIZES = {"train": None, "development": 0.2, "test": 0.3}


def make_examples(count: int, labels: str = "") -> list[Example]:
    rng = random.Random(0)
    return [Example(f"t-{n}", f"{n}?", rng.choice(labels or [str(n)])) for n in range(count)]


def divide_questions(examples: list[Example], stratified: bool) -> dict[str, set[str]]:
    divided = divide({"all": examples}, SIZES, 0, stratified, "task")
    return {split: {one.question for one in divided[split]} for split in divided}


@pytest.mark.parametrize("stratified", [False, True])
def test_the_order_of_the_rows_does_not_matter(stratified: bool) -> None:
    examples = make_examples(400, "abc" if stratified else "")
    shuffled = random.Random(1).sample(examples, 400)
    assert divide_questions(examples, stratified) == divide_questions(shuffled, stratified)


@pytest.mark.parametrize("stratified", [False, True])
def test_rows_that_are_added_move_few_others(stratified: bool) -> None:
    examples = make_examples(1100, "abc" if stratified else "")
    before = divide_questions(examples[:1000], stratified)
    after = divide_questions(examples, stratified)
    assert len(after["test"]) == 330
    moved = sum(len(before[split] - after[split]) for split in before)
    # a shuffle would move some 620 of the 1,000
    assert moved < 60
    assert len(before["test"] & after["train"]) == 0


def test_one_test_question_depends_on_no_order_either() -> None:
    examples = make_examples(40)
    sizes = {"train": None, "development": None, "test": 1}
    shuffled = random.Random(1).sample(examples, 40)
    first, second = (divide({"all": one}, sizes, 0, False, "t") for one in (examples, shuffled))
    assert first["test"] == second["test"] and len(first["test"]) == 1


def test_equal_questions_go_to_the_same_split() -> None:
    examples = make_examples(200)
    twice = [*examples, *(Example(f"u-{e.id}", f" {e.question} ", e.answer) for e in examples)]
    divided = divide_questions(twice, stratified=False)
    stripped = {split: {one.strip() for one in divided[split]} for split in divided}
    assert sum(len(stripped["test"] & stripped[split]) for split in ("train", "development")) <= 1


def test_memory_is_bounded_and_what_is_kept_depends_on_no_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapt_jax.tasks.loading_rows.MAX_EXAMPLES", 50)
    rows = [Row(f"f, line {n}", n, {"question": f"{n}?", "answer": str(n)}) for n in range(500)]
    reader = ExampleReader(Fields(), "number", name="t")

    def read(rows: list[Row], **sizes: int | None) -> list[str]:
        all_sizes = {"train": None, "development": None, "test": None, **sizes}
        result = read_examples(reader, {"all": iter(rows)}, all_sizes, 3, False)
        assert (result.rows, result.not_kept) == (500, 500 - len(result.examples["all"]))
        return [one.question for one in result.examples["all"]]

    kept = read(rows, test=10)
    assert len(kept) == 50
    assert Counter(kept) == Counter(read(random.Random(0).sample(rows, 500), test=10))
    assert kept == sorted(kept, key=lambda text: int(text[:-1]))
    more = read(rows, train=90, test=10)
    assert len(more) == 100 and set(kept) <= set(more)
    # a test split of its own is kept whole
    result = read_examples(reader, {"test": iter(rows)}, dict.fromkeys(SIZES), 3, False)
    assert len(result.examples["test"]) == 500
