"""Configurations: files, overrides, and one clear line for whatever is wrong."""

from pathlib import Path
from typing import Literal

import pytest
import yaml

from adapt_jax.methods.registry import METHODS
from adapt_jax.utils.config import (
    CompareConfig,
    MeshConfig,
    Strict,
    TuneConfig,
    load_config,
    override,
    read_yaml,
    validate,
)
from adapt_jax.utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


class Inner(Strict):
    steps: int = 1
    learning_rate: float = 1e-3


class Outer(Strict):
    training: Inner = Inner()
    mesh: MeshConfig | None = None
    name: str


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text("name: sums\nseed: 3\nsplits: {test: 5}\n")
    run = {"task": "tasks/sums.yaml", "methods": {"zero_shot": {}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


def test_a_task_file_is_read_in_beside_the_configuration_and_can_be_overridden(files: Path):
    settings, where, place = load_config(
        CompareConfig, files / "run.yaml", {"task.seed": "7", "task.splits.train": "2", "seed": "1"}
    )
    assert settings.task == {"name": "sums", "seed": 7, "splits": {"test": 5, "train": 2}}
    assert (
        settings.seed == 1
        and place == (files / "tasks", str(files / "tasks/sums.yaml"))
        and where == str(files / "run.yaml")
    )


def test_a_whole_task_and_a_decoder_can_be_exchanged(files: Path):
    (files / "other.yaml").write_text("name: other\n")
    overrides = {"task": str(files / "other.yaml"), "task.seed": "2", "decoder": "elsewhere"}
    settings, _, place = load_config(CompareConfig, files / "run.yaml", overrides)
    assert settings.task == {"name": "other", "seed": 2} and place.folder == files
    assert settings.decoder == "elsewhere"


def test_a_task_within_the_configuration_is_called_by_its_key(files: Path):
    config = read_yaml(files / "run.yaml") | {"task": {"name": "sums"}}
    (files / "run.yaml").write_text(yaml.safe_dump(config))
    place = load_config(CompareConfig, files / "run.yaml")[2]
    assert place == (files, f"{files / 'run.yaml'}: task")
    assert load_config(CompareConfig, config)[2].name == "config: task"


def test_a_decoder_is_looked_up_beside_the_file_that_names_it(files: Path):
    (files / "model").mkdir()
    config = read_yaml(files / "run.yaml") | {"decoder": "model"}
    (files / "run.yaml").write_text(yaml.safe_dump(config))
    assert load_config(CompareConfig, files / "run.yaml")[0].decoder == str(files / "model")


def test_files_that_methods_name_are_looked_up_beside_the_configuration(files: Path):
    options = {"tasks": ["tasks/sums.yaml", {"task": "tasks/none.yaml"}], "init": "a.b", "rate": 1}
    config = read_yaml(files / "run.yaml") | {"methods": {"instruction_tuning": options}}
    (files / "run.yaml").write_text(yaml.safe_dump(config))
    found = load_config(CompareConfig, files / "run.yaml")[0].methods["instruction_tuning"]
    assert found == options | {
        "tasks": [str(files / "tasks" / "sums.yaml"), {"task": "tasks/none.yaml"}]
    }


def test_values_of_overrides_are_yaml():
    given = {"a.b": "[1, x]", "a.c": "null", "d": "1.5e-3", "e": "yes please", "f": 3}
    data = override({"a": {"b": 0}, "d": 1}, given, "file")
    assert data == {"a": {"b": [1, "x"], "c": None}, "d": 1.5e-3, "e": "yes please", "f": 3}


def test_an_override_leaves_the_given_mapping_alone():
    data = {"a": {"b": 0}}
    assert override(data, {"a.b": 1}, "file") == {"a": {"b": 1}} and data == {"a": {"b": 0}}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"name": "x", "training": {"step": 3}}, "f: unknown key 'training.step'; did you mean"),
        (
            {"name": "x", "mesh": {"tensors": 3}},
            "f: unknown key 'mesh.tensors'; did you mean 'tens",
        ),
        ({"nam": "x"}, "f: the key 'name' is missing"),
        ({"name": "x", "zzz": 1}, "f: unknown key 'zzz'; valid keys: training, mesh, name"),
        (
            {"name": "x", "training": {"steps": "many"}},
            "f: training.steps: Input should be a valid",
        ),
    ],
)
def test_the_mistake_is_reported_with_its_key(data: dict, line: str):
    with pytest.raises(UserError) as told:
        validate(Outer, data, "f")
    assert str(told.value).startswith(line) and "\n" not in str(told.value)


def test_the_nearest_member_of_a_union_is_reported_without_its_name():
    class MultipleChoiceRequest(Strict):
        modules: Literal["all"] | list[Literal["query", "key"]] = "all"
        task: str | dict[str, int] = ""

    with pytest.raises(
        UserError, match="^here: modules.1: Input should be 'query' or 'key', found"
    ):
        validate(MultipleChoiceRequest, {"modules": ["key", "qery"]}, "here")
    with pytest.raises(UserError, match="^here: task: Input should be a valid string, found 5"):
        validate(MultipleChoiceRequest, {"task": 5}, "here")
    with pytest.raises(UserError, match="^here: modules: Input should be"):
        validate(MultipleChoiceRequest, {"modules": {}}, "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "not valid YAML"),
        ("- a", "expected `key: value` lines, found list"),
        ("", "found"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, expected: str):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match="bad.yaml[:,] ") as told:
        read_yaml(tmp_path / "bad.yaml")
    assert expected in str(told.value) and "\n" not in str(told.value)


def test_a_missing_file_is_reported_with_its_nearest_neighbour(files: Path):
    with pytest.raises(UserError, match=r"rum\.yaml: no such file; did you mean .*run\.yaml"):
        load_config(CompareConfig, files / "rum.yaml")


def test_a_key_below_a_plain_value_cannot_be_overridden(files: Path):
    with pytest.raises(UserError, match="--seed.x: seed is 0, it has no keys"):
        override({"seed": 0}, {"seed.x": "1"}, "file")
    with pytest.raises(UserError, match="--choices.0: choices is .*, it has no keys") as told:
        override({"choices": ["x" * 50] * 77}, {"choices.0": "y"}, "file")
    assert len(str(told.value)) < 300


def test_a_value_that_is_no_yaml_is_named():
    with pytest.raises(UserError, match="--a, line 2: not valid YAML"):
        override({}, {"a": "[1"}, "file")


@pytest.mark.parametrize(
    "path",
    [
        REPOSITORY / "configs" / "ladder.yaml",
        *(REPOSITORY / "configs" / "real").glob("*_embedded.*"),
    ],
    ids=lambda path: path.stem,
)
def test_the_comparisons_that_come_along_are_valid(path: Path):
    from adapt_jax.comparison.setup import choose_methods
    from adapt_jax.methods.registry import METHODS

    settings, where, _ = load_config(CompareConfig, path)
    assert list(choose_methods(settings, where)) == list(METHODS)
    assert isinstance(settings.task, dict) and settings.task["name"] in path.stem + " arithmetic"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs" / "tune").glob("*")), ids=lambda path: path.stem
)
def test_the_tuning_configurations_that_come_along_are_valid(path: Path):
    from adapt_jax.methods.registry import METHODS

    settings, where, _ = load_config(TuneConfig, path)
    options = dict(settings.method)
    name = options.pop("name")
    assert name == path.stem
    validate(METHODS[name], options, where)


def test_another_kind_of_template_keeps_the_tasks_own_wording():
    task = {"name": "t", "source": {}, "template": {"choice": "", "answer": " It is {answer}."}}
    data = {"task": task, "methods": {}}
    config, _, _ = load_config(CompareConfig, data, {"task.template": "chat"})
    assert config.task["template"] == {**task["template"], "chat": True}
    config, _, _ = load_config(CompareConfig, data, {"task.template": "plain"})
    assert config.task["template"] == {**task["template"], "chat": False}
    data["task"] = {**task, "template": "plain"}
    config, _, _ = load_config(CompareConfig, data, {"task.template": "chat"})
    assert config.task["template"] == "chat"


@pytest.mark.parametrize(("method", "rate"), [("lora", 3e-3), ("prompt_tuning", 1e-2)])
def test_options_of_a_training_that_are_not_given_keep_the_defaults_of_their_method(
    method: str, rate: float
):
    settings = validate(METHODS[method], {"training": {"steps": 50}}, method)
    assert (settings.training.steps, settings.training.learning_rate) == (50, rate)
    settings = validate(METHODS[method], {"training": {"learning_rate": 7.0}}, method)
    assert settings.training.learning_rate == 7.0


def test_a_part_keeps_the_defaults_of_its_field():
    class Outer(Strict):
        mesh: MeshConfig = MeshConfig(fsdp=4)

    assert validate(Outer, {"mesh": {"tensor": 2}}, "x").mesh == MeshConfig(fsdp=4, tensor=2)
    assert validate(Outer, {}, "x").mesh == MeshConfig(fsdp=4)
    with pytest.raises(UserError, match="unknown key 'mesh.tensors'; did you mean 'tensor'"):
        validate(Outer, {"mesh": {"tensors": 2}}, "x")
