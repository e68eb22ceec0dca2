"""Whether what an answer names is the answer, or what the answer is not."""

import re

__all__ = ["is_negated"]

MAX_NEGATION = 60  # characters before a position in which a negation is looked for
_NOT = r"(?:\bnot|n['’]t|\bcannot|\bneither|\bnor|\bnever)"
_SUBJECT = r"(?:\sthat)?(?:\s(?:it|this|the\s(?:right\s|correct\s)?(?:answer|option|choice)))?"
_NEGATED = re.compile(
    # "not B", "isn't the answer B", "not obviously B"
    rf"(?:{_NOT}(?:\s(?:be|a|an|the|answer|option|choice|[a-z]+ly)){{0,3}}"
    # "I don't think that it is B", "I doubt it's B"
    rf"|(?:{_NOT}\s(?:think|believe|say|suppose|choose|pick|select)|\bdoubt){_SUBJECT}"
    r"(?:['’]s|\sis|\swas)?(?:\s(?:option|choice))?"
    # "blood rather than sky", "anything but B"
    r"|\b(?:rather|other)\sthan|\binstead\sof|\bexcept(?:\sfor)?|\banything\sbut|\bas\sopposed\sto"
    r"|\bruled?\sout|\b(?:eliminated?|excluding|exclude|reject)(?:\s(?:option|choice)s?)?"
    r"|\bnobody\swould\s(?:choose|pick|say))"
    r"(?:\s(?:the|a|an))?\s\W{0,4}\Z",
    re.IGNORECASE,
)


def is_negated(text: str, position: int) -> bool:
    """Whether a negation stands directly before what begins at the position.

    Such as not, isn't, nor, rather than, instead of, I don't think it's.
    """
    return _NEGATED.search(text[max(0, position - MAX_NEGATION) : position]) is not None
