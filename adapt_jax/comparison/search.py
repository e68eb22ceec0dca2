"""Finds good demonstrations, their order and an instruction by experiment.

The development split decides. The test split is asked once, at the end, by the prompt that won.

OUT/search.json          every prompt that was tried, and what it answered right
OUT/adaptation           the prompt that won, as an ordinary adaptation
OUT/evaluation.json      its answers to the test split, with predictions.jsonl
OUT/unfinished/          answers of a search that is not finished; it continues from them
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.storage import DESCRIPTION, FORMAT_VERSION
from adapt_jax.comparison.racing import plan_race, run_race
from adapt_jax.comparison.search_result import (
    FORMAT,
    Measured,
    Origin,
    SearchResult,
    TriedPrompt,
)
from adapt_jax.comparison.setup import (
    RunInputs,
    agree_on,
    choose_output_folder,
    load_inputs,
    report_task,
)
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.report.files import write_evaluation
from adapt_jax.evaluation.scorers import find_scorer
from adapt_jax.methods.base import PromptingMethod, RunOptions
from adapt_jax.methods.registry import METHODS
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, check_prompt
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.task import Task
from adapt_jax.utils import files
from adapt_jax.utils.agreement import agree, on_main, run_on_main
from adapt_jax.utils.bucket_mirror import mirror
from adapt_jax.utils.config import Overrides, SearchConfig, load_config, validate
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import extension_version, hash_named_files, identity
from adapt_jax.utils.locks import lock_folder
from adapt_jax.utils.progress import Display, OnProgress
from adapt_jax.utils.text_files import read_json

__all__ = ["search"]

RESULT = "search.json"
SHARE_OF_ORDERS = 0.3  # of the budget, for other orders of the demonstrations that won


@dataclass(frozen=True)
class _Candidate:
    origin: Origin
    prompt: Prompt


def search(
    config: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    overrides: Overrides | None = None,
    progress: bool = True,
) -> SearchResult:
    """Searches for a good prompt of a method, and saves it in ``output_dir/adaptation``.

    Prompts with random demonstrations race against each other and against the one that the method
    chooses by itself (see ``racing``), then the best one against other orders of its
    demonstrations. The same seed finds the same prompt. Interrupted at any moment and called again,
    it continues where it stopped.

    Args:
        config: a YAML file such as configs/search.yaml, or the mapping that it holds.
        overrides: values of dotted keys, ``{"max_questions": 500}``.

    Raises:
        UserError: for whatever the user can mend; a method that trains, or a task without a
            development split included.
    """
    settings, where, folder = load_config(SearchConfig, config, overrides)
    method = _read_method(settings, where)
    agree_on(settings, "search")
    output = choose_output_folder(output_dir, settings, config)
    agree("command", {"output-dir": str(output)})
    inputs = load_inputs(settings, folder)
    if not inputs.task.development:
        raise UserError(
            f"{where}: a search decides on the development split, and the task {inputs.task.name} "
            "has none; set task.splits.development"
        )
    display = Display(progress)
    report_task(inputs.task, display)
    with mirror(output) as local:
        files.check_target_folder(local / "adaptation", DESCRIPTION)
        with on_main("output folder", lambda: lock_folder(local)):
            try:
                return _Search(settings, method, inputs, local, display).run()
            except MethodNotApplicable as reason:
                raise UserError(
                    f"{where}: {method.name} cannot run on {inputs.task.name}: {reason}"
                ) from None


def _read_method(settings: SearchConfig, where: str) -> PromptingMethod:
    """The method with its options checked; one that trains has no prompt to search for."""
    options = dict(settings.method)
    name = str(options.pop("name", None))
    found = METHODS.find(name, f"{where}: method.name")
    method = validate(found, options, f"{where}: method")
    if not isinstance(method, PromptingMethod):
        raise UserError(
            f"{where}: method.name: {name} trains; a search is for methods that prompt alone, such "
            "as few_shot"
        )
    return method


class _Search:
    """One search in a folder that is this process's own."""

    def __init__(
        self,
        settings: SearchConfig,
        method: PromptingMethod,
        inputs: RunInputs,
        output: Path,
        display: Display,
    ):
        self.settings, self.method, self.output = settings, method, output
        self.task, self.model, self.display = inputs.task, inputs.model, display
        self.shown_task = inputs.task
        self.identity = _identify(settings, method, inputs)
        self.folder = output / "unfinished" / f"search-{self.identity}"
        # the order in which questions are asked is drawn once, for all prompts
        self.questions = list(self.task.development)
        random.Random(f"search/{settings.seed}").shuffle(self.questions)
        self.candidates: list[_Candidate] = []
        self.rows: dict[tuple[int, int], tuple[bool, float]] = {}
        self.left_because: dict[int, str] = {}
        self.asked = 0

    def run(self) -> SearchResult:
        """Races, asks the test split once, and writes everything."""
        if (finished := run_on_main("finished search", self._find_finished)) is not None:
            self.display.line(f"{self.output.name}: this search is finished")
            return SearchResult.model_validate(finished)
        if self.folder.exists():
            self.display.line("search: continues where it stopped")

        # 1. sets of demonstrations, and instructions; then orders of the best set
        run = RunOptions(
            seed=self.settings.seed,
            folder=self.folder,
            max_concurrent_sequences=self.settings.max_concurrent_sequences,
        )
        self.shown_task = self.method.prepare_task(self.model, self.task, run).task
        budget = self.settings.max_questions
        with_orders = bool(self.settings.orders)
        sets_budget = round(budget * (1 - SHARE_OF_ORDERS)) if with_orders else budget
        winner = self._race(self._draw_candidates(), sets_budget, "prompts")
        if with_orders and (orders := self._reorder(self.candidates[winner].prompt)):
            winner = self._race(orders, budget - self.asked, "orders", incumbent=winner)

        # 2. the test split, once
        adaptation = self._adapt(winner)
        adaptation.question_format = self.task.question_format
        test = None
        if self.task.test:
            journal = Journal(self.folder / "test.jsonl", self.identity)
            with self.display.stage("test split") as update:
                evaluation = evaluate(
                    adaptation,
                    self.task,
                    seed=self.settings.seed,
                    max_concurrent_sequences=self.settings.max_concurrent_sequences,
                    on_progress=update,
                    journal=journal,
                )
            scores = [row.score for row in evaluation.predictions]
            test = Measured.of(evaluation.correct, scores)

        # 3. what stays
        adaptation.save(self.output / "adaptation")
        result = self._make_result(winner, test)

        def write() -> None:
            if test is not None:
                write_evaluation(
                    self.output,
                    evaluation,
                    self.task,
                    method=self.method.name,
                    seed=self.settings.seed,
                )
            files.write_json(self.output / RESULT, result.model_dump(mode="json"))
            shutil.rmtree(self.output / "unfinished", ignore_errors=True)

        run_on_main("search", write)
        return result

    def _find_finished(self) -> Any:
        """The content of search.json, if it is of the same search; old answers are removed."""
        for left in (self.output / "unfinished").glob("search-*"):
            if left != self.folder:
                shutil.rmtree(left, ignore_errors=True)
        path = self.output / RESULT
        if not path.is_file() or not (self.output / "adaptation" / DESCRIPTION).is_file():
            return None
        try:
            found = validate(SearchResult, read_json(path), str(path))
        except (UserError, TypeError, ValueError):
            return None
        return found.model_dump(mode="json") if found.identity == self.identity else None

    # Candidates

    def _draw_candidates(self) -> list[_Candidate]:
        """For each instruction the method's own prompt, then prompts with drawn demonstrations."""
        tasks = [
            replace(self.shown_task, instruction=one)
            for one in _list_instructions(self.task, self.settings.instructions)
        ]
        seed = self.settings.seed
        found = [
            _Candidate("own", self.method.build_prompt(self.model, one, seed)) for one in tasks
        ]
        check_prompt(self.model, found[0].prompt, self.task)
        # prompts that were drawn before do not count; a small pool has only so many
        for number in range(4 * self.settings.candidates):
            if len(found) >= max(self.settings.candidates, len(tasks)):
                break
            drawn = random.Random(f"search/{seed}/{number}").randrange(2**32)
            prompt = self.method.draw_prompt(self.model, tasks[number % len(tasks)], drawn)
            if prompt not in [one.prompt for one in found]:
                found.append(_Candidate("drawn", prompt))
        return found

    def _reorder(self, prompt: Prompt) -> list[_Candidate]:
        """Candidates with the demonstrations of a prompt in other orders, drawn by the seed."""
        rng, shown = random.Random(f"orders/{self.settings.seed}"), list(prompt.demonstrations)
        seen = [prompt.demonstrations]
        for _ in range(4 * self.settings.orders):
            if len(seen) > self.settings.orders:
                break
            rng.shuffle(shown)
            if tuple(shown) not in seen:
                seen.append(tuple(shown))
        return [_Candidate("reordered", replace(prompt, demonstrations=one)) for one in seen[1:]]

    # The race

    def _race(
        self, entering: Sequence[_Candidate], budget: int, what: str, incumbent: int | None = None
    ) -> int:
        """Races the candidates, and the one that has won before; the number of the winner."""
        numbers = [] if incumbent is None else [incumbent]
        count, first = plan_race(len(entering) + len(numbers), len(self.questions), budget)
        if count < len(entering) + len(numbers):
            self.display.line(
                f"{what}: max_questions is enough for {count} of {len(entering) + len(numbers)}"
            )
        entering = entering[: max(count - len(numbers), 0)]
        numbers += range(len(self.candidates), len(self.candidates) + len(entering))
        self.candidates += entering
        if len(numbers) == 1:  # nothing to decide
            if incumbent is None:
                self._ask(numbers[0], 0, first, None)
            return numbers[0]

        def on_round(number: int, racing: Sequence[int], questions: int) -> None:
            self.display.line(f"{what}, round {number}: {len(racing)} x {questions} questions")

        with self.display.stage(f"search: {what}") as update:
            race = run_race(
                len(numbers),
                len(self.questions),
                first,
                budget,
                lambda one, start, end: self._ask(numbers[one], start, end, update),
                alpha=self.settings.alpha,
                on_round=on_round,
            )
        winner = numbers[race.winner]
        for one, number in enumerate(numbers):
            if number != winner:
                why = race.left_because.get(one, f"round {race.rounds}: below the best at the end")
                self.left_because[number] = f"{what}, {why}"
        return winner

    def _ask(
        self, number: int, start: int, end: int, on_progress: OnProgress | None
    ) -> tuple[list[float], int]:
        """The scores of a candidate on questions ``start`` to ``end``, and how many are new."""
        missing = [at for at in range(start, end) if (number, at) not in self.rows]
        if missing:
            block = [self.questions[at] for at in missing]
            adaptation = self._adapt(number)
            name = f"{number:03d}-{missing[0]}.jsonl"
            evaluation = evaluate(
                adaptation,
                self.task,
                block,
                seed=self.settings.seed,
                max_concurrent_sequences=self.settings.max_concurrent_sequences,
                on_progress=on_progress,
                journal=Journal(self.folder / name, identity(adaptation.identity, block)),
            )
            for at, row in zip(missing, evaluation.predictions, strict=True):
                self.rows[number, at] = (row.correct, row.score)
        self.asked += len(missing)
        return [self.rows[number, at][1] for at in range(start, end)], len(missing)

    def _adapt(self, number: int) -> Adaptation:
        return Adaptation(self.method.name, self.candidates[number].prompt, self.model)

    # The result

    def _make_result(self, winner: int, test: Measured | None) -> SearchResult:
        tried = [
            TriedPrompt(
                origin=one.origin,
                instruction=one.prompt.instruction,
                demonstrations=[shown.question for shown in one.prompt.demonstrations],
                development=self._measure(number),
                left_because=self.left_because.get(number) if number != winner else None,
            )
            for number, one in enumerate(self.candidates)
        ]
        development = self._measure(winner)
        assert development is not None, "the winner has answered questions"
        return SearchResult(
            identity=self.identity,
            task=self.task.name,
            decoder=self.settings.decoder,
            method=self.method.name,
            seed=self.settings.seed,
            max_questions=self.settings.max_questions,
            asked=self.asked,
            chosen=winner,
            development=development,
            test=test,
            tried=tried,
        )

    def _measure(self, number: int) -> Measured | None:
        rows = [row for (one, _), row in self.rows.items() if one == number]
        if not rows:
            return None
        return Measured.of([right for right, _ in rows], [score for _, score in rows])


def _identify(settings: SearchConfig, method: PromptingMethod, inputs: RunInputs) -> str:
    """16 hex digits over all that the search depends on."""
    task = replace(inputs.task, warnings=(), summary=None, question_format=None)
    code = [extension_version(one) for one in (type(method), *method.list_extensions())]
    judging = [extension_version(PARSERS[task.parser]), extension_version(find_scorer(task))]
    options = [settings.max_questions, settings.candidates, settings.orders, settings.instructions]
    return identity(
        [FORMAT, FORMAT_VERSION],
        [inputs.model.identity, task, judging],
        [method.name, hash_named_files(method), code],
        [*options, settings.alpha, settings.seed],
    )


def _list_instructions(task: Task, given: Sequence[str]) -> list[str]:
    """The task's own instruction, then those that the user gave."""
    sets = {example.choices for example in (*task.train, *task.development)}
    choices = ", ".join(sets.pop()) if len(sets) == 1 else "{choices}"
    worded = [one.replace("{choices}", choices) for one in given]
    return list(dict.fromkeys([task.instruction, *worded]))
