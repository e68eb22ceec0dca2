"""Files and folders in a bucket: what is read, cached, pulled and pushed."""

import json
from pathlib import Path

import pytest

from adapt_jax.utils import bucket as buckets
from adapt_jax.utils import bucket_copy, files
from adapt_jax.utils.bucket import BucketPath, fetch, find_fetched, list_objects, to_path
from adapt_jax.utils.bucket_mirror import find_mirror, mirror, mirror_file
from adapt_jax.utils.config import find_path
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import read_text, read_yaml

RUN = to_path("gs://b/run")


def test_an_address_is_a_path():
    path = to_path("gs://b/run/a.csv")
    assert str(path) == str(to_path(Path("gs://b/run/a.csv"))) == "gs://b/run/a.csv"
    assert (path.name, path.suffix, str(path.parent)) == ("a.csv", ".csv", "gs://b/run")
    assert str(path.parent / "c" / "d") == "gs://b/run/c/d"
    assert isinstance(to_path("runs/a"), Path) and not isinstance(to_path("runs/a"), BucketPath)


def test_what_is_read_is_fetched_once(bucket):
    bucket.put_object("b/tasks/one.yaml", "name: one")
    bucket.put_object("b/tasks/data/t.csv", "a,b")
    bucket.put_object("b/tasks2/other", "x")
    folder = to_path("gs://b/tasks")
    assert folder.is_dir() and not folder.is_file() and not to_path("gs://b/task").exists()
    assert sorted(list_objects(folder)) == ["data/t.csv", "one.yaml"]
    assert sorted(one.name for one in folder.iterdir()) == ["data", "one.yaml"]
    assert read_yaml("gs://b/tasks/one.yaml") == {"name": "one"}
    assert fetch(folder) == fetch(folder) and (fetch(folder) / "data/t.csv").read_text() == "a,b"
    before = fetch(folder)
    bucket.put_object("b/tasks/one.yaml", "name: two")
    assert read_yaml("gs://b/tasks/one.yaml") == {"name": "two"}
    assert fetch(folder) != before and find_fetched(folder) == fetch(folder)
    assert (fetch(folder, skip=r"\.yaml$") / "data").is_dir()
    assert not (fetch(folder, skip=r"\.yaml$") / "one.yaml").exists()


def test_relative_paths_are_beside_the_file_that_names_them(bucket, tmp_path):
    bucket.put_object("b/tasks/t.csv", "a,b")
    assert str(find_path("t.csv", to_path("gs://b/tasks"))) == "gs://b/tasks/t.csv"
    assert find_path("gs://b/tasks/t.csv", tmp_path).read_bytes() == b"a,b"
    here = tmp_path / "here.csv"
    here.write_text("c")
    assert find_path(str(here), to_path("gs://b/tasks")) == here


def test_mistakes_name_the_address(bucket):
    bucket.put_object("b/tasks/one.yaml", "name: one")
    with pytest.raises(UserError, match=r"gs://b/tasks/onne.yaml: no such file.*one.yaml"):
        read_text("gs://b/tasks/onne.yaml")
    with pytest.raises(UserError, match="gs://b/tasks: is a folder"):
        read_text("gs://b/tasks")
    with pytest.raises(UserError, match="expected gs://BUCKET/NAME"):
        fetch("gs://")
    with pytest.raises(UserError, match="gs://b/tasks: is a folder"):
        files.check_target_file("gs://b/tasks")
    with pytest.raises(UserError, match="gs://b/tasks/one.yaml: is a file"):
        files.check_output_folder("gs://b/tasks/one.yaml")
    with pytest.raises(UserError, match="not empty, and no adaptation.json"):
        files.check_target_folder("gs://b/tasks", "adaptation.json")


def test_files_and_folders_are_written_whole(bucket):
    files.write_json("gs://b/out/one.json", {"a": 1})
    assert json.loads(bucket.read("b/out/one.json")) == {"a": 1}

    def fill(names):
        def write(new):
            for name in names:
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(name)

        return write

    files.replace_folder("gs://b/ad", fill(["mark", "in/old"]), marker="mark")
    files.replace_folder("gs://b/ad", fill(["mark", "in/new"]), marker="mark")
    assert bucket.names("b/ad") == ["in/new", "mark"]
    assert sorted(list_objects("gs://b/ad")) == ["in/new", "mark"]


def test_a_mirror_begins_with_the_bucket_and_ends_in_it(bucket):
    with mirror(RUN) as local:
        (local / "step").mkdir()
        (local / "step" / "a").write_text("1")
        (local / "log").write_text("one\n")
        (local / ".lock").write_text("")
        (local / "x.orbax-checkpoint-tmp").write_text("")
    assert bucket.names("b/run") == ["log", "step/a"]
    (local / "only here").write_text("")
    with mirror(RUN) as local:
        assert sorted(one.name for one in local.iterdir()) == ["log", "step"]
        (local / "log").write_text("one\ntwo\n")
        (local / "step" / "a").unlink()
        (local / "step" / "b").write_text("2")
    assert bucket.names("b/run") == ["log", "step/b"]
    assert bucket.read("b/run/log") == b"one\ntwo\n"
    assert not any("changed-" in name for name in bucket.objects)
    # nothing is written where nothing has changed
    count = len(bucket.written)
    with mirror(RUN):
        pass
    assert [name for name in bucket.written[count:]] == ["b/run/.adapt_jax/owner"]


def test_a_push_that_ends_at_any_moment_leaves_one_state(bucket):
    """The old state, or the new one; never some files of each."""

    def make(generation):
        with mirror(RUN) as local:
            for one in local.iterdir():
                one.unlink()
            for name in ("a", "b", "c"):
                (local / name).write_text(generation)
            (local / f"only-{generation}").write_text(generation)

    make("old")
    start = dict(bucket.objects)
    seen = set()
    for limit in range(12):
        bucket.objects = dict(start)
        bucket.fails_after = limit
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket_copy, "MAX_SCANS", 1)
            try:
                make("new")
                is_done = True
            except UserError as problem:
                assert "gs://b/run: cannot be" in str(problem)
                is_done = False
        bucket.fails_after = None
        states = {read_text(f"gs://b/run/{name}") for name in ("a", "b", "c")}
        assert len(states) == 1
        (state,) = states
        seen.add(state)
        assert set(list_objects(RUN)) == {"a", "b", "c", f"only-{state}"}, limit
        with mirror(RUN) as local:  # goes on from there, and tidies up
            assert (local / "a").read_text() == state
            (local / "d").write_text(state)
        assert sorted(list_objects(RUN)) == ["a", "b", "c", "d", f"only-{state}"]
        assert {bucket.read(f"b/run/{name}").decode() for name in "abcd"} == {state}
        assert not any("changed-" in name for name in bucket.objects)
        if is_done:
            break
    assert is_done and seen == {"old", "new"}


def test_pushes_now_and_then_while_the_work_goes_on(bucket, monkeypatch):
    import time

    monkeypatch.setenv("ADAPT_JAX_PUSH_SECONDS", "0.05")
    with mirror(RUN) as local:
        (local / "a").write_text("1")
        for _ in range(100):
            if bucket.names("b/run"):
                break
            time.sleep(0.05)
        assert bucket.names("b/run") == ["a"]


def test_a_run_that_another_took_over_does_not_write(bucket, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="gs://b/run: another run has begun"), mirror(RUN) as local:
        (local / "a").write_text("first")
        monkeypatch.setenv("ADAPT_JAX_BUCKET_CACHE", str(tmp_path / "another machine"))
        with mirror(RUN) as other:
            (other / "a").write_text("second")
    assert bucket.read("b/run/a") == b"second"


def test_what_other_programs_changed_is_not_used(bucket, caplog):
    with mirror(RUN) as local:
        (local / "a").write_text("a")
        (local / "b").write_text("b")
        (local / "c").write_text("c")
    bucket.put_object("b/run/a", "x")
    del bucket.objects["b/run/b"]
    with mirror(RUN) as local:
        assert [one.name for one in local.iterdir()] == ["c"]
    assert "gs://b/run/a: is not what the run wrote" in caplog.text
    assert bucket.read("b/run/a") == b"x"


def test_objects_that_a_part_list_names_stay_until_none_names_them(bucket):
    def put_part(name):
        bucket.put_object(f"b/run/.adapt_jax/parts/{name}", name)

    def list_parts():
        return {name.rpartition("/")[2] for name in bucket.objects if "/parts/" in name}

    with mirror(RUN) as local:
        for step in "12":
            put_part(step)
            objects = [f".adapt_jax/parts/{step}"]
            files.write_json(local / step / "parts.json", {"objects": objects})
        put_part("unfinished")
    assert list_parts() == {"1", "2", "unfinished"}
    with mirror(RUN) as local:
        assert list_parts() == {"1", "2"}
        (local / "1" / "parts.json").rename(local / "moved")
        (local / "moved").unlink()
        find_mirror(local).push()
        assert list_parts() == {"2"}
    assert bucket.names("b/run") == ["2/parts.json"]


def test_a_folder_may_be_copied_to_another_place(bucket):
    with mirror(RUN) as local:
        (local / "a").write_text("1")
    for name in list(bucket.objects):
        bucket.put_object(name.replace("b/run/", "c/copy/"), bucket.read(name))
        del bucket.objects[name]
    assert read_text("gs://c/copy/a") == "1"
    with mirror(to_path("gs://c/copy")) as local:
        assert (local / "a").read_text() == "1"


def test_a_mistake_in_a_mirror_names_the_address(bucket):
    with pytest.raises(UserError, match=r"^gs://b/run/a: no$"), mirror(RUN) as local:
        raise UserError(f"{local}/a: no")


def test_answers_of_other_processes_are_beside_the_file(bucket):
    path = to_path("gs://b/out/answers.jsonl")
    bucket.put_object("b/out/answers.jsonl.process-2", "two\n")
    bucket.put_object("b/out/answers.jsonl.other", "")
    with mirror_file(path) as local:
        part = local.with_name("answers.jsonl.process-2")
        assert part.read_text() == "two\n"
        assert not local.with_name("answers.jsonl.other").exists()
        part.write_text("two\nmore\n")
        find_mirror(local).push()
        assert bucket.read("b/out/answers.jsonl.process-2") == b"two\nmore\n"
        local.write_text("one\ntwo\nmore\n")
        part.unlink()
    assert bucket.names("b/out") == ["answers.jsonl", "answers.jsonl.other"]


def test_a_file_is_mirrored_alone(bucket):
    path = to_path("gs://b/out/answers.jsonl")
    bucket.put_object("b/out/other", "")
    with pytest.raises(RuntimeError), mirror_file(path) as local:
        assert not local.exists()
        local.write_text("one\n")
        raise RuntimeError
    with mirror_file(path) as local:
        assert local.read_text() == "one\n"
        local.write_text("one\ntwo\n")
    assert bucket.read("b/out/answers.jsonl") == b"one\ntwo\n"


def test_large_files_go_in_parts(bucket, monkeypatch):
    monkeypatch.setattr(bucket_copy, "MAX_WHOLE_BYTES", 1000)
    content = bytes(range(256)) * (6 * 2**20 // 256)
    with mirror(RUN) as local:
        (local / "large").write_bytes(content)
    assert bucket.read("b/run/large") == content
    with mirror(RUN) as local:
        assert (local / "large").read_bytes() == content


def test_a_bucket_that_may_not_be_written_is_one_line_at_the_start(bucket):
    bucket.fails_after = 0
    with pytest.raises(UserError, match="gs://b/run: cannot be written") as mistake, mirror(RUN):
        raise AssertionError("the work has begun")
    assert "\n" not in str(mistake.value) and len(str(mistake.value)) < 300


def test_without_gcsfs_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    buckets.file_system.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'adapt-jax\[gcs\]'"):
        read_text("gs://b/x")
    buckets.file_system.cache_clear()
