"""The pre-tokenizers of byte-level vocabularies, by the names that llama.cpp gives them.

A pre-tokenizer divides text into words, within which tokens are merged. ``tokenizer.ggml.pre``
names the one that the vocabulary was learned with. transformers knows some of these names; here
are others, as the tokenizer.json of their models has them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

__all__ = ["ADDS_BOS", "ALIASES", "LIKE_GPT2", "WHOLE_WORDS", "build_pre_tokenizer"]

# name -> the name of the same expressions in transformers
ALIASES = {
    **dict.fromkeys(("glm4", "glm5", "chatglm-bpe"), "llama3"),
    **dict.fromkeys(("stablelm2", "hunyuan", "solar-open", "grok-2"), "qwen2"),
}
# as GPT-2, which transformers does by default
LIKE_GPT2 = (
    *("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "trillion", "gigachat", "a.x-4.0"),
    "mellum",
)
# as GPT-2, with every digit alone
SINGLE_DIGITS = (
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "mellum2",
)
LLAMA3 = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
# A word that is a token is one, whether merges lead to it or not.
WHOLE_WORDS = (*LLAMA3, "tekken", "glm4", "glm5", "youtu")
ADDS_BOS = (*LLAMA3, "tekken")  # where the file does not say

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Letters with two cases, of which DeepSeek's first tokenizer does not know those of later scripts.
_LATER_LETTERS = (
    "\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c8f\u2d00-\u2d2d\ua790-\ua7fa\uab30-\uab6f"
    "\U00010500-\U00010c7f\U00010d00-\U0001189f\U000118e0-\U0001e8ff\U0001e944-\U0010ffff"
)
_LOWER_FIRST = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER_FIRST = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_NOT_WORD = r"[^\r\n\p{L}\p{N}]?"
EXPRESSIONS = {
    "bloom": (r" ?[^(\s|.,!?…。，、।۔،)]+",),
    "deepseek-llm": (
        r"[\r\n]",
        rf"\s?(?:(?![{_LATER_LETTERS}])[\p{{Lu}}\p{{Ll}}\p{{Lt}}])+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}+",
    ),
    "youtu": (
        "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
        "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        rf"{_NOT_WORD}{_LOWER_FIRST}{_CONTRACTIONS}?|{_NOT_WORD}{_UPPER_FIRST}{_CONTRACTIONS}?"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "deepseek-v3": _DEEPSEEK,
    "hunyuan-dense": _DEEPSEEK,
    "seed-coder": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    ),
}


def build_pre_tokenizer(name: str) -> "PreTokenizer | None":
    """The pre-tokenizer of this name; None where it is not one of those listed here."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

    if name in SINGLE_DIGITS:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if name == "falcon":
        threes = Split(Regex("[0-9][0-9][0-9]"), "isolated")
        words = [Punctuation("contiguous"), ByteLevel(add_prefix_space=False)]
        return Sequence([*words, Digits(individual_digits=False), threes])
    if name not in EXPRESSIONS:
        return None
    splits = [Split(Regex(one), "isolated") for one in EXPRESSIONS[name]]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])
