"""Huge pages: asked for where they are offered and nobody said otherwise."""

import subprocess
import sys

import pytest

from adapt_jax import host_memory
from adapt_jax.host_memory import HUGE_PAGES, with_huge_pages

SCRIPT = """
import os, sys
from adapt_jax import host_memory
host_memory.OFFERED = host_memory.Path(sys.argv[1])
host_memory.start_with_huge_pages()
print(os.getpid(), sys.argv[2], os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.fixture
def offered(tmp_path, monkeypatch):
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    monkeypatch.setattr(host_memory, "OFFERED", file)
    return file


def test_huge_pages_are_asked_for_beside_what_is_set(offered):
    assert with_huge_pages({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": HUGE_PAGES}
    other = "glibc.malloc.arena_max=1"
    assert with_huge_pages({"GLIBC_TUNABLES": other})["GLIBC_TUNABLES"] == f"{other}:{HUGE_PAGES}"


def test_who_says_something_about_them_is_obeyed(offered):
    off = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(off) == off


@pytest.mark.parametrize("modes", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_is_asked_where_they_come_anyway_or_never(offered, modes):
    offered.unlink() if modes is None else offered.write_text(modes)
    assert with_huge_pages({"A": "b"}) == {"A": "b"}


def test_a_program_starts_again_as_itself_and_once(offered, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    started = subprocess.Popen(
        [sys.executable, script, offered, "a b"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = started.communicate(timeout=60)
    assert said.splitlines() == [f"{started.pid} a b {HUGE_PAGES}"]
