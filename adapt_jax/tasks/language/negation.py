"""Whether what an answer names is the answer, or what the answer is not."""

import re

__all__ = ["is_negated"]

MAX_NEGATION = 60  # characters before a position in which a negation is looked for
_NOT = r"(?:\bnot|n['’]t|\bcannot|\bneither|\bnor|\bnever)"
_VERB = (
    r"(?:think|believe|say|suppose|choose|pick|select|seem|look|sound|appear|feel|call|consider(?:ed)?"
    r"|classif(?:y|ied)|labell?(?:ed)?|described?)"
)
_SUBJECT = r"(?:\sthat)?(?:\s(?:it|this|the\s(?:right\s|correct\s)?(?:answer|option|choice)))?"
_NEGATED = re.compile(
    # "not B", "isn't the answer B", "not obviously B", "not very good"
    rf"(?:{_NOT}(?:\s(?:be|a|an|the|answer|option|choice|very|so|quite|too|at\sall|[a-z]+ly)){{0,3}}"
    # "I don't think that it is B", "I doubt it's B", "it doesn't seem good"
    rf"|(?:{_NOT}\s(?:be\s)?{_VERB}|\bdoubt){_SUBJECT}"
    r"(?:['’]s|\sis|\swas|\sto\sbe|\sas|\slike)?(?:\s(?:option|choice))?"
    # "blood rather than sky", "anything but B", "nothing good"
    r"|\b(?:rather|other)\sthan|\binstead\sof|\bexcept(?:\sfor)?|\banything\sbut|\bas\sopposed\sto"
    r"|\bfar\sfrom|\b(?:lack|absence)\sof|\bhardly|\bbarely|\bnothing|\bwithout"
    r"|\bruled?\sout|\b(?:eliminated?|excluding|exclude|reject)(?:\s(?:option|choice)s?)?"
    r"|\bnobody\swould\s(?:choose|pick|say))"
    r"(?:\s(?:the|a|an))?\s\W{0,4}\Z",
    re.IGNORECASE,
)

# one of these is in every negation: to look for them is quick
_HINTS = tuple(
    "not n't n’t nor never neither than instead except but opposed far hardly barely without rule "
    "eliminat exclud reject nobody doubt lack absence".split()
)


def is_negated(text: str, position: int) -> bool:
    """Whether a negation comes directly before what begins at the position.

    Such as not, isn't, nor, rather than, instead of, I don't think it's.
    """
    before = text[max(0, position - MAX_NEGATION) : position]
    folded = before.lower()
    return any(hint in folded for hint in _HINTS) and _NEGATED.search(before) is not None
