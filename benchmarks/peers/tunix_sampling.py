"""tunix's own sampler on its own Llama, with prompts as short as they are and no padding."""

import json
import sys
from pathlib import Path
from typing import Any

from tunix.generate.sampler import CacheConfig, Sampler

from benchmarks.measuring import measure
from benchmarks.peers.tunix_llama import load_llama


class Numbers:
    """A tokenizer whose text is the token ids themselves; the sampler puts its BOS in front."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def pad_id(self) -> int:
        return 0


def main(settings: dict[str, Any]) -> dict[str, float]:
    model = load_llama(Path(settings["folder"]))
    config = model.config
    texts = [
        " ".join(map(str, [*settings["prefix"][1:], *question]))
        for question in settings["questions"]
        for _ in range(settings["candidates"])
    ]
    length = len(settings["prefix"]) + len(settings["questions"][0])
    new = settings["new_tokens"]
    # one column beyond, which the sampler writes after the last token
    cache = CacheConfig(length + new + 1, config.num_layers, config.num_kv_heads, config.head_dim)
    sampler = Sampler(model, Numbers(), cache)

    def run(seed: int) -> None:
        found = sampler(
            texts,
            max_generation_steps=new,
            max_prompt_length=length,
            eos_tokens=[config.vocab_size],  # no such token: none stops early
            temperature=settings["temperature"],
            top_p=1.0,
            top_k=settings["top_k"] or None,
            seed=seed,
        )
        assert len(found.tokens) == len(texts) and all(len(one) == new for one in found.tokens)

    return measure(run, settings["repeats"])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
