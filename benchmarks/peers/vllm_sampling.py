"""vLLM on a CPU with prefix caching: n candidates of each prompt, each of the full length."""

import json
import os
import sys
from typing import Any

from benchmarks.measuring import measure


def main(settings: dict[str, Any]) -> dict[str, float]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, taken as it loads
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, whose memory is measured
    from vllm import LLM, SamplingParams

    longest = max(map(len, settings["questions"]))
    length = len(settings["prefix"]) + longest + settings["new_tokens"]
    model = LLM(
        settings["folder"],
        dtype=settings["peer_dtype"],
        enable_prefix_caching=True,
        max_model_len=length + 16,
        max_num_seqs=max(64, len(settings["questions"]) * settings["candidates"]),
        disable_log_stats=True,
    )
    prompts = [
        {"prompt_token_ids": [*settings["prefix"], *question]} for question in settings["questions"]
    ]

    def run(seed: int) -> None:
        params = SamplingParams(
            n=settings["candidates"],
            temperature=settings["temperature"],
            top_k=settings["top_k"] or -1,
            max_tokens=settings["new_tokens"],
            ignore_eos=True,
            detokenize=False,
            seed=None,
        )
        # ours encodes the prefix within the measured time, so nothing of an earlier run is kept
        model.reset_prefix_cache()
        found = model.generate(prompts, params, use_tqdm=False)
        texts = [text for one in found for text in one.outputs]
        assert len(texts) == len(prompts) * settings["candidates"]
        assert all(len(text.token_ids) == settings["new_tokens"] for text in texts)

    return measure(run, settings["repeats"])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
