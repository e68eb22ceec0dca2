"""transformers' generate: plain, or with the prefix's cache computed once per run and reused."""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.measuring import measure


def main(settings: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(settings["threads"])
    model = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.float32).eval()
    prompt_prefix = torch.tensor(settings["prefix"], dtype=torch.long)[None]
    questions = torch.tensor(settings["questions"])
    whole = torch.cat([prompt_prefix.expand(len(questions), -1), questions], dim=1)
    new, candidates = settings["new_tokens"], settings["candidates"]
    options = {
        "max_new_tokens": new,
        "do_sample": settings["temperature"] > 0,
        "temperature": settings["temperature"] or None,
        "top_k": settings["top_k"],
        "top_p": 1.0,
        "pad_token_id": 0,
    }

    def plain() -> torch.Tensor:
        return model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            num_return_sequences=candidates,
            **options,
        )

    def cached() -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        model(prompt_prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        rows = whole.repeat_interleave(candidates, dim=0)
        cache.batch_repeat_interleave(len(rows))
        mask = torch.ones_like(rows)
        return model.generate(rows, attention_mask=mask, past_key_values=cache, **options)

    def run(seed: int) -> None:
        torch.manual_seed(seed)
        with torch.inference_mode():
            texts = cached() if settings["cached"] else plain()
        assert texts.shape == (len(questions) * candidates, whole.shape[1] + new)

    return measure(run, settings["repeats"])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
