"""benchmarks.gpu works on a CPU with a tiny shape, and says where there is no GPU."""

import json
import sys

import pytest

from benchmarks import gpu


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(gpu, "find_gpu", lambda: ("cpu", None, None))
    with pytest.raises(SystemExit, match="no GPU here, JAX sees a cpu: nothing was measured"):
        gpu.main()


def test_figures_of_ours_and_of_the_time_that_ran_out(monkeypatch, capsys):
    arguments = ["gpu", "--shape", "tiny", "--allow-cpu", "--work", "lora", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(gpu, "find_gpu", lambda: ("H100 in name only", 1e12, 1e12))
    real = gpu.measure_side

    def measure(work, side, settings, left):
        return real(work, side, settings, left if side == "ours" else 1.0)

    monkeypatch.setattr(gpu, "measure_side", measure)
    gpu.main()
    head, ours, peer = map(json.loads, capsys.readouterr().out.splitlines())
    assert head["shape"] == "tiny" and head["device"] == "H100 in name only"
    assert ours["side"] == "ours" and ours["median_s"] > 0 and ours["teraflop_s"] > 0
    assert ours["share_of_peak"] == pytest.approx(ours["teraflop_s"], rel=1e-3)
    assert peer["skipped"] in ("no time is left", "peft is not installed")
