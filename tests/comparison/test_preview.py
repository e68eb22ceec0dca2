"""``adapt-jax preview``: the tokens that the decoder is asked with, in parts, without weights."""

import json
from pathlib import Path
from typing import Any

import pytest

import adapt_jax
from adapt_jax.cli.main import main
from adapt_jax.comparison.preview import Preview, preview
from adapt_jax.comparison.preview_parts import Part
from adapt_jax.pretrained import loading
from adapt_jax.utils.errors import UserError

METHODS = {
    "zero_shot": {"answer_by": "likelihood"},
    "few_shot": {"demonstrations": 2},
    "prompt_tuning": {"length": 5, "position": "after_bos"},
    "lora": {},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = [
        {"id": f"q{n}", "text": f"My {word}\nis {n}!", "label": word}
        for n, word in enumerate(["bill", "parcel"] * 10)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "mail",
        "source": str(tmp_path / "q.jsonl"),
        "fields": {"id": "id", "question": "text", "answer": "label"},
        "choices": ["bill", "parcel"],
        "instruction": "Name the topic.",
        "template": {"choice": ""},
        "answer_parser": "label",
        "splits": {"test": 6},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(json.dumps({"decoder": "embedded", "task": task, "methods": METHODS}))
    return path


def join(parts: list[Part]) -> str:
    return "".join(token for part in parts for token in part.tokens)


def names(shown: Preview) -> list[str]:
    return [part.name for part in shown.parts]


def refuse_weights(*args: Any, **options: Any) -> Any:
    raise AssertionError("the weights are not needed")


def test_demonstrations_question_and_answer_prompt_are_parts(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "open_tensors", refuse_weights)
    shown = preview(config, rung="few_shot")
    assert names(shown) == [
        "instruction", "demonstration 1", "demonstration 2", "question", "answer prompt",
    ]  # fmt: skip
    text = join(shown.parts)
    assert text.startswith("<bos>Name the topic.\n\nQ: My ")
    assert join(shown.parts[3:4]).startswith("Q: My ") and join(shown.parts[3:4]).endswith("!")
    assert join(shown.parts[4:]) == "\nA:"
    assert shown.title == "few_shot of mail, decoder embedded"


def test_the_tokens_are_those_that_the_decoder_is_asked_with(config: Path) -> None:
    shown = preview(config, rung="few_shot", question="My bill is lost!")
    (adaptation,) = (
        rung.adaptation
        for rung in [adapt_jax.METHODS["few_shot"](demonstrations=2).adapt(*load(config))]
    )
    prompt = adaptation.prompt
    model = adaptation.model
    text = prompt.render_prompt(model, prompt.template.format_question("My bill is lost!"))
    assert shown.num_tokens == len(prompt.encode(model, text))
    assert join(shown.parts) == model.tokenizer.decode(prompt.encode(model, text))


def load(config: Path) -> tuple[Any, Any]:
    settings = json.loads(config.read_text())
    return adapt_jax.load_pretrained("embedded"), adapt_jax.load_task(settings["task"])


def test_scored_choices_follow_the_prompt(config: Path) -> None:
    shown = preview(config, rung="zero_shot", index=2)
    assert names(shown)[-1] == "answer opening"
    assert join(shown.parts).endswith("\nA: The answer is")
    assert [join([part]) for part in shown.choices] == [" bill.", " parcel."]


def test_a_rung_that_trains_shows_its_loss_and_soft_prompt(config: Path) -> None:
    shown = preview(config, rung="lora")
    assert names(shown) == ["instruction", "question", "answer prompt", "answer"]
    assert [part.has_loss for part in shown.parts] == [False, False, False, True]
    assert join(shown.parts[3:]).startswith(" The answer is ")
    assert join(shown.parts[3:]).endswith(".<eos>")
    tuned = preview(config, rung="prompt_tuning")
    assert names(tuned)[:3] == ["BOS", "soft prompt", "instruction"]
    assert len(tuned.parts[1]) == 5 and tuned.num_tokens == shown.num_tokens + 5
    first = preview(
        config, rung="prompt_tuning", overrides={"methods.prompt_tuning.position": "before_bos"}
    )
    assert names(first)[:2] == ["soft prompt", "instruction"]


def test_a_saved_adaptation_is_shown_without_its_weights(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = load(config)
    adapt_jax.METHODS["few_shot"](demonstrations=2).adapt(model, task).adaptation.save(
        tmp_path / "a"
    )
    monkeypatch.setattr(loading, "open_tensors", refuse_weights)
    shown = preview(tmp_path / "a", question="My bill?")
    assert names(shown)[1:3] == ["demonstration 1", "demonstration 2"]
    assert join(shown.parts).endswith("Q: My bill?\nA:")
    with pytest.raises(UserError, match="--question TEXT"):
        preview(tmp_path / "a")
    (tmp_path / "run" / "adaptations").mkdir(parents=True)
    (tmp_path / "a").rename(tmp_path / "run" / "adaptations" / "few_shot")
    asked = ["--rung", "few_shot", "--question", "My bill?"]
    assert main(["preview", str(tmp_path / "run"), *asked]) == 0
    assert main(["preview", str(tmp_path / "run"), "--rung", "lora", "--question", "?"]) == 2


@pytest.mark.parametrize("rung", ["chain_of_thought", "self_consistency", "lora"])
def test_reasonings_that_are_not_yet_written_are_not_shown(config: Path, rung: str) -> None:
    """The prompt would be another one than that of the run."""
    with pytest.raises(UserError) as refused:
        preview(config, rung=rung, overrides={f"methods.{rung}.bootstrap": {"questions": 5}})
    assert f"{rung}: with bootstrap the decoder writes the reasonings" in str(refused.value)
    assert "nothing to show before adapt-jax compare" in str(refused.value)


def test_what_is_printed_marks_tokens_where_there_are_no_colours(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview", str(config), "--rung", "lora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lora of mail, decoder embedded: ")
    assert any(line.startswith("[answer: ") and line.endswith(" tokens, loss]") for line in lines)
    assert any("| " in line for line in lines) and "\x1b" not in "".join(lines)
    assert main(["preview", str(config), "--index", "99"]) == 2
    assert "the test split has 0 to 5" in capsys.readouterr().err
    assert main(["preview", str(config), "--rung", "lara"]) == 2
    assert "did you mean 'lora'" in capsys.readouterr().err
