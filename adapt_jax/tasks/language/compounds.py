"""Whether a choice is only the beginning of a longer phrase: ``desk`` in ``desk drawer``."""

import re
from collections.abc import Iterable

__all__ = ["is_longer_phrase"]

MAX_PHRASE = 200  # characters of a line that may be one phrase

# words that go on after a choice and do not belong to its name
_GOES_ON = frozenset(
    # conjunctions, prepositions, pronouns, adverbs
    "a about above across after again against all alone already also although always among an and "
    "any are around as at be because been before behind being below beside best between both but "
    "by can cannot clearly correctly could did does during either else enough especially even ever "
    "every for from had has have he hence here how i if in indeed inside instead into is it its "
    "just less like likely many may maybe me might more most much must my near neither never no "
    "nor not now of off often on once one only onto or other our out outside over perhaps probably "
    "rather really same seldom shall she should simply since so some sometimes still such than "
    "that the their them then there therefore these they this those though through throughout thus "
    "to together too toward towards under unless unlike until up upon us usually very via was we "
    "were what when where whereas whether which while who whom whose why will with within without "
    "would yes yet you your today tomorrow yesterday tonight overnight everywhere anywhere "
    # what an answer says of a choice
    "answers applies belongs comes contains describes do fits follows gives goes happens helps "
    "holds leads makes matches means needs occurs provides remains represents seems shows sounds "
    "stands suits wins works made found used known given seen kept left put "
    "correct right wrong true false possible plausible suitable appropriate reasonable good better "
    # what a choice is, where it is an adjective or the name of a class
    "answer article articles attitude category choice class color colour condition department "
    "document emotion feeling group intent intention item kind label level mood news object "
    "opinion option outcome outlook page person place polarity problem issue "
    "request question reason response result "
    "review reviews score sense sentence sentiment side sign sort statement team text thing things "
    "tone topic type value view weather word words".split()
)
_LEAD = re.compile(
    r"\W*(?:(?:it|this|that|the\sanswer|answer|probably|likely)(?:\sis|['’]s|:)?\s)?"
    r"(?:(?:in|on|at|to|from|by|with|inside|near)\s)?(?:(?:a|an|the|his|her|their|your|my)\s)?",
    re.IGNORECASE,
)
_REST = re.compile(r"(?: [a-z]{3,}){1,2}[\s.!\"'”’*)]*\Z")
_ENDING = re.compile(r"..(?:ing|ed|ly)\Z")  # found near, used daily; but a bed
_POSSESSIVE = re.compile(r"['’]\s\w")


def is_longer_phrase(line: str, choices: Iterable[str]) -> bool:
    """Whether a line is a phrase of which a choice is only the beginning.

    It is where one or two more words, in small letters, end the line, and are no words that go on
    after a name: ``desk drawer.``, ``in the desk drawer``; not ``desk because``, ``desk, drawer``,
    ``Boston Massachusetts`` or ``He went to the desk yesterday``.

    Args:
        choices: in folded letter case.
    """
    lead = _LEAD.match(line)
    phrase = line[lead.end() if lead else 0 :][:MAX_PHRASE]
    if len(line) > MAX_PHRASE:
        return False
    folded = phrase.casefold()
    begun = [one for one in choices if one and folded.startswith(one)]
    if not begun or len(folded) != len(phrase):
        return False
    rest = phrase[len(max(begun, key=len)) :]
    if _POSSESSIVE.match(rest):
        return lead is None or not lead[0].endswith(("'", "‘", "’"))  # or a quotation ends there
    if not _REST.fullmatch(rest):
        return False
    words = re.findall("[a-z]+", rest)
    return not any(word in _GOES_ON or _ENDING.search(word) for word in words)
