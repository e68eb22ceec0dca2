"""``adapt_jax`` as a model of EleutherAI's lm-evaluation-harness (the package ``lm_eval``).

    import lm_eval
    from adapt_jax.harness.model import AdaptJaxLM

    model = AdaptJaxLM(pretrained="path/to/a/hugging/face/folder")
    results = lm_eval.simple_evaluate(model=model, tasks=["hellaswag"], num_fewshot=5)

Once this module is imported, ``simple_evaluate(model="adapt_jax", model_args="pretrained=...")``
works too. Texts become token ids as in the harness's own model ``hf``, so that scores agree. Unlike
there, what prompts have in common is read once (``sampling/shared_contexts.py``).
"""

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.session import build_prefixes, find_mesh
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.harness.loading import (
    check_arguments,
    load_adaptation,
    load_decoder,
    load_tokenizer,
)
from adapt_jax.harness.prompt import get_prompt_text, has_conversation, prepend_messages
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.sampling.shared_contexts import Pair, score_pairs
from adapt_jax.utils.compilations import use_compilation_cache
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import has_bos_prefix
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as absent:
    raise UserError(
        f"lm-evaluation-harness cannot be imported ({absent}); pip install adapt-jax[eval]"
    ) from None

from adapt_jax.harness.generation import GenerationRequest, Generator

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["AdaptJaxLM"]

logger = logging.getLogger(__name__)

MAX_GEN_TOKS = 256  # new tokens of an answer whose task says nothing, as in the model hf


@register_model("adapt_jax")
class AdaptJaxLM(TemplateLM):
    """A pretrained decoder, or an adaptation of one, as a model of the harness.

    Batches are chosen here, so the harness's batch size is not used.
    """

    def __init__(
        self,
        pretrained: str | Path | PretrainedDecoder | None = None,
        adaptation: str | Path | Adaptation | None = None,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = MAX_GEN_TOKS,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | int | None = None,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        **others: Any,
    ):
        """
        Args:
            pretrained: a Hugging Face folder, "embedded", a name on the hub, or a loaded decoder;
                with an adaptation its decoder, where it does not lie where it was.
            adaptation: a saved adaptation, behind whose soft prompt, instruction, demonstrations
                and weights the prompts are asked.
            revision: on the hub.
            dtype: of the weights, such as "float32"; see ``load_pretrained``.
            max_length: tokens of the longest text, if not what ``config.json`` says. Longer ones
                lose their beginning.
            max_gen_toks: new tokens of an answer whose task says nothing.
            add_bos_token: whether texts begin with BOS; by default as the tokenizer does it.
            prefix_token_id: what an empty context is replaced with; by default BOS, or else EOS.
            chat_template_args: variables of the chat template.
            enable_thinking: the same as this variable of the chat template.
            think_end_token: where an answer's reasoning ends; it is dropped.
            seed: of sampled answers.
            max_concurrent_sequences: answers that are generated at the same time; by default what
                memory allows.

        Raises:
            UserError: an argument is unknown, the decoder or the adaptation cannot be read, or the
                adaptation cannot be asked by the harness.
        """
        super().__init__()
        check_arguments(AdaptJaxLM, others)
        use_compilation_cache()
        self.adaptation = load_adaptation(adaptation, pretrained)
        self.decoder = load_decoder(self.adaptation, pretrained, revision, dtype, max_length)
        self.tokenizer: Any = load_tokenizer(self.decoder, add_bos_token)
        self.soft_prompt = self.adaptation.soft_prompt if self.adaptation else None
        self._prompt_text = get_prompt_text(self.adaptation)
        self.add_bos_token, self.custom_prefix_token_id = add_bos_token, prefix_token_id
        self.revision, self.max_gen_toks = revision, max_gen_toks
        self.enable_thinking, self.think_end_token = enable_thinking, think_end_token
        self.chat_template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self.chat_template_args["enable_thinking"] = enable_thinking
        self.seed, self.max_concurrent_sequences = seed, max_concurrent_sequences
        self._max_length = max_length
        self._newest_texts: dict[tuple[str, bool | None], list[int]] = {}
        self._asks_in_chat = False  # whether the harness applies the chat template

    # what the harness asks about the model

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text; None, where the tokenizer has none."""
        eos: int | None = self.tokenizer.eos_token_id
        return eos

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context.

        Raises:
            UserError: the tokenizer has neither BOS nor EOS, and no other token was given.
        """
        for token in (self.custom_prefix_token_id, self.tokenizer.bos_token_id, self.eot_token_id):
            if token is not None:
                return int(token)
        raise UserError("the tokenizer has neither BOS nor EOS: give prefix_token_id")

    @property
    def max_length(self) -> int:
        """Tokens of the longest text, without the soft prompt."""
        whole = self._max_length or self.decoder.config.context_length
        return whole - len(self.soft_prompt or ())

    @property
    def tokenizer_name(self) -> str:
        """What the harness's cache of requests tells chat templates apart by.

        It asks only where the template is applied. The adaptation's messages are part of what it
        keeps.
        """
        self._asks_in_chat = True
        name = str(self.tokenizer.name_or_path).replace("/", "__")
        return name if self.adaptation is None else f"{name}__{self.adaptation.identity}"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        parameters = get_parameters(self.decoder.decoder).values()
        info = {
            "model_num_parameters": sum(one.size for one in parameters),
            "model_dtype": str(self.decoder.decoder.embedding[...].dtype),
            "model_revision": self.revision or "",
            "model_sha": self.decoder.fingerprint,
            "adapt_jax_version": version("adapt-jax"),
        }
        if self.adaptation is not None:
            info |= {
                "adaptation_method": self.adaptation.method,
                "adaptation_identity": self.adaptation.identity,
            }
        return info

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the chat template writes it, behind that of the adaptation."""
        from jinja2.exceptions import TemplateError

        self._asks_in_chat = True
        history = prepend_messages(self.adaptation, chat_history)

        def render(messages: list[dict[str, str]]) -> str:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.chat_template_args,
            )
            return str(text)

        try:
            return render(history)
        except TemplateError:
            logger.warning("The chat template refuses the system's message, which is left out.")
            return render([one for one in history if one["role"] != "system"])

    # texts to token ids

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, begun as the tokenizer begins it; control tokens are read as such.

        The choices of a question come one after the other, so the newest texts are remembered.
        """
        key = string, add_special_tokens
        if key not in self._newest_texts:
            if len(self._newest_texts) >= 8:
                self._newest_texts.pop(next(iter(self._newest_texts)))
            if add_special_tokens is None and has_bos_prefix(
                string, self.tokenizer.decode(self.prefix_token_id)
            ):
                add_special_tokens = False
            self._newest_texts[key] = self._tokenize(string, add_special_tokens)
        return list(self._newest_texts[key])

    def _tokenize(self, text: str, add_special_tokens: bool | None) -> list[int]:
        add = self.add_bos_token if add_special_tokens is None else add_special_tokens
        options = {} if add is None else {"add_special_tokens": add}
        ids = self.tokenizer.encode(replace_surrogates(text), verbose=False, **options)
        size = self.decoder.config.vocab_size
        if ids and max(ids) >= size:
            raise UserError(
                f"the tokenizer gives id {max(ids)}, but the decoder has only {size} embeddings"
            )
        return list(ids)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a context, behind the adaptation's text, and of its continuation.

        The context's trailing spaces move into the continuation.
        """
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        before = self._prompt_text + stripped
        whole, own = self.tok_encode(before + continuation), self.tok_encode(before)
        return own or [self.prefix_token_id], whole[len(own) :]

    def _check_chat(self) -> None:
        """Refuses to leave out an instruction and demonstrations that are a conversation."""
        if not self._asks_in_chat and has_conversation(self.adaptation):
            raise UserError(
                "adaptation: its instruction and demonstrations are a conversation; "
                "--apply_chat_template asks the harness's prompts in it"
            )

    # answers

    def loglikelihood(
        self, requests: "list[Instance]", disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether greedy decoding gives it) of each request.

        Raises:
            UserError: a continuation has no tokens, or more than the context holds.
        """
        self._check_chat()
        if self.enable_thinking:
            raise UserError("enable_thinking: choices are not scored after a thought; leave it out")
        if self._prompt_text:
            # an empty context becomes the adaptation's own text
            encoded = [(one.args, *self._encode_pair(*one.args)) for one in requests]
            return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = []
        for strings, context, continuation in requests:
            if not continuation or len(continuation) > self.max_length:
                raise UserError(
                    f"the continuation {strings[1]!r:.60} has {len(continuation)} tokens of its "
                    f"own; expected 1 to {self.max_length}"
                )
            text = (*context, *continuation)[-(self.max_length + 1) :]
            border = len(text) - len(continuation)
            pairs.append(Pair(text[:border], text[border:]))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        description = "Running loglikelihood requests"
        with tqdm(total=len(pairs), disable=disable_tqdm, desc=description) as bar:
            for index, answer in self._score(pairs):
                found[index] = answer
                self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
                bar.update()
        return found

    def _score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Yields (index, (log-probability, is greedy)) of every pair, in any order."""
        fixed = [self._count_fixed(pair.context) for pair in pairs]
        if any(count == len(pair.context) for count, pair in zip(fixed, pairs, strict=True)):
            raise UserError(
                "adaptation: an empty context cannot be scored after a soft prompt that follows "
                "BOS; one that precedes BOS can (position: before_bos)"
            )
        for count in sorted(set(fixed)):
            chosen = [index for index, one in enumerate(fixed) if one == count]
            scores = score_pairs(
                self.decoder,
                [pairs[index] for index in chosen],
                self._build_prefix,
                min_prefix=count,
                mesh=find_mesh(self.decoder),
            )
            for at, likelihood in scores:
                yield chosen[at], (likelihood.log_probability, likelihood.is_greedy)

    def _count_fixed(self, context: tuple[int, ...]) -> int:
        """Tokens that are part of a prefix in any case: BOS, where the soft prompt follows it."""
        after_bos = self.soft_prompt is not None and not self.soft_prompt.before_bos
        return int(after_bos and context[0] == self.decoder.config.bos_id)

    def _build_prefix(self, tokens: tuple[int, ...]) -> Prefix:
        [prefix] = build_prefixes(self.decoder, self.soft_prompt, tokens)
        return prefix

    def loglikelihood_rolling(
        self, requests: "list[Instance]", disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text, in windows of the context's length.

        Every window comes behind the soft prompt and the text of the adaptation.
        """
        self._check_chat()
        before = self.tok_encode(self._prompt_text) if self._prompt_text else []
        pairs, owners = [], []
        for index, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False if before else None),
                prefix_token=before[-1] if before else self.prefix_token_id,
                max_seq_len=self.max_length - len(before),
                context_len=1,
            )
            for number, window in enumerate(windows):
                context, continuation = make_disjoint_window(window)
                # the first one begins with the prefix token
                ahead = before if number else before[:-1]
                pairs.append(Pair((*ahead, *context), tuple(continuation)))
                owners.append(index)
        totals = [0.0] * len(requests)
        description = "Running loglikelihood_rolling requests"
        with tqdm(total=len(pairs), disable=disable_tqdm, desc=description) as bar:
            for at, (log_probability, _) in self._score(pairs):
                totals[owners[at]] += log_probability
                bar.update()
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of its stop strings.

        Raises:
            UserError: a generation argument is unknown or out of range, or no room is left for the
                context.
        """
        self._check_chat()
        asked = [
            GenerationRequest(tuple(self._encode_context(context)), arguments)
            for context, arguments in (one.args for one in requests)
        ]
        generator = Generator(
            self.decoder,
            self._build_prefix,
            self._count_fixed,
            max_length=self.max_length,
            max_gen_toks=self.max_gen_toks,
            think_end_token=self.think_end_token,
            seed=self.seed,
            max_concurrent_sequences=self.max_concurrent_sequences,
        )
        texts = [""] * len(requests)
        description = "Running generate_until requests"
        with tqdm(total=len(asked), disable=disable_tqdm, desc=description) as bar:
            for index, text in generator.generate(asked):
                texts[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
                bar.update()
        return texts

    def _encode_context(self, context: str) -> list[int]:
        """Token ids of what an answer follows, behind the adaptation's text."""
        text = self._prompt_text + context
        bos = self.tokenizer.bos_token
        begins = bool(bos) and text.startswith(bos)
        return self._tokenize(text, False if begins else None) or [self.prefix_token_id]
