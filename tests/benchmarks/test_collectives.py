"""Collectives are counted as often as they run, with the bytes of their arrays in full."""

from adapt_jax.inspection.checkpoint import count_parameters
from benchmarks.collectives import read_collectives
from benchmarks.tpu import read_config
from benchmarks.tpu_shapes import DECODERS

MODULE = """
HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: bf16[64,32]) -> bf16[64,4] {
  %all-reduce.9 = bf16[64,32]{1,0:T(8,128)} all-reduce(%input), channel_id=5, to_apply=%add
}

%async_collective_fusion.1 (param: bf16[8,64]) -> bf16[64,64] {
  %all-gather.1 = bf16[64,64]{1,0:T(8,128)} all-gather(%param), channel_id=7, dimensions={0}
}

%async_collective_fusion.2 (param: bf16[8,64]) -> bf16[64,64] {
  %all-gather.2 = bf16[64,64]{1,0:T(8,128)} all-gather(%param), channel_id=7, dimensions={0}
}

%body (state: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %gather.1 = bf16[64,64] fusion(%x), kind=kCustom, calls=%async_collective_fusion.1
  %gather.2 = bf16[64,64] fusion(%x), kind=kCustom, calls=%async_collective_fusion.2
  %reduced = bf16[64,4] fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}

%condition (state: (s32[], bf16[8,64])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(27)
  ROOT %less = pred[] compare(%index, %constant.1), direction=LT
}

ENTRY %main (x: bf16[8,64]) -> f32[] {
  %while.1 = (s32[], bf16[8,64]) while(%tuple), condition=%condition, body=%body
  ROOT %loss = (f32[]{:T(128)}, f32[10]) all-reduce(%a, %b), channel_id=1, to_apply=%add
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_a_gather_cut_into_steps_once():
    found = read_collectives(MODULE)
    assert found.counts == {"all-gather": 27, "reduce-scatter": 27, "all-reduce": 1}
    assert found.in_loops == {"all-gather": 27, "reduce-scatter": 27, "all-reduce": 0}
    assert found.nbytes == {
        "all-gather": 27 * 64 * 64 * 2,
        "reduce-scatter": 27 * 64 * 32 * 2,
        "all-reduce": 4 + 40,
    }


def test_decoders_have_their_published_sizes():
    billions = {
        name: round(sum(count_parameters(read_config(name, None)).values()) / 1e9, 2)
        for name in DECODERS
    }
    assert billions == {
        "llama-3.2-3b": 3.21,
        "llama-3.1-8b": 8.03,
        "llama-3.1-70b": 70.55,
        "qwen2.5-14b": 14.77,
        "gemma-3-27b": 27.01,
    }
