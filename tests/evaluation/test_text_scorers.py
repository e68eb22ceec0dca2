"""Scorers of texts against the official algorithms, and metrics against closed forms."""

import collections
import math
import re
import string

import pytest
from made_results import Scripted, candidate, make_task, prediction

from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.scorers import score_answer, token_f1
from adapt_jax.tasks.answers.text_scores import TEXT_SCORES, check_installed, compute_corpus_score
from adapt_jax.tasks.example import Example
from adapt_jax.utils.errors import UserError

PAIRS = [
    ("the cat sat on the mat", "a cat sat on a mat"),
    ("Police killed the gunman.", "The gunman was shot by police officers yesterday."),
    ("", "something"),
    ("something else entirely", "nothing in common"),
    ("the the the", "the"),
    ("One, two; three! four", "one two three four five"),
]


def official_normalize(text: str) -> str:
    """normalize_answer of SQuAD's evaluate-v2.0.py."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())


def official_f1(gold: str, predicted: str) -> float:
    """compute_f1 of SQuAD's evaluate-v2.0.py."""
    gold_tokens, predicted_tokens = (
        official_normalize(gold).split(),
        official_normalize(predicted).split(),
    )
    if not gold_tokens or not predicted_tokens:
        return float(gold_tokens == predicted_tokens)
    same = sum((collections.Counter(gold_tokens) & collections.Counter(predicted_tokens)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted_tokens), same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_and_exact_match_are_those_of_squads_script():
    golds = [gold for _, gold in PAIRS] + ["", "the", "U.S.A.", "don't"]
    answers = [answer for answer, _ in PAIRS] + ["USA", "dont", "an", "cat"]
    for answer in answers:
        for gold in golds:
            score = token_f1(answer, Example("q", "?", gold), make_task(gold))
            exact = official_normalize(answer) == official_normalize(gold)
            assert score == (pytest.approx(official_f1(gold, answer)), exact)


def test_no_answer_is_right_where_there_is_none():
    nothing = Example("q", "?", "")
    assert token_f1("", nothing, make_task("")) == (1.0, True)
    assert token_f1(None, nothing, make_task("")) == (1.0, True)
    assert token_f1("Paris", nothing, make_task("")) == (0.0, False)
    # an accepted answer without a word does not count beside others (evaluate-v2.0.py)
    several = Example("q", "?", "Paris", aliases=("the",))
    assert token_f1("a", several, make_task("Paris")) == (0.0, False)
    assert token_f1("Paris!", several, make_task("Paris", scorer="squad")) == (1.0, True)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_the_library(kind):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([kind])
    for text, reference in PAIRS:
        expected = scorer.score(reference, text)[kind].fmeasure
        assert TEXT_SCORES[kind](text, [reference]) == pytest.approx(expected)
    # the nearest reference counts
    assert TEXT_SCORES[kind]("the cat sat", ["no", "the cat sat"]) == 1.0


def test_rouge_1_by_hand():
    pytest.importorskip("rouge_score")
    # words in common: the, cat; precision 2/3, recall 2/4
    assert TEXT_SCORES["rouge1"]("the cat ran", ["the cat was here"]) == pytest.approx(4 / 7)
    # the longest common subsequence: police the gunman -> 2 of 3 and 4
    assert TEXT_SCORES["rougeL"]("police kill the gunman", ["police killed the gunman"]) == 0.75


def test_bleu_and_chrf_of_sentences_and_of_the_corpus():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = [text for text, _ in PAIRS], [[one] for _, one in PAIRS]
    for text, reference in PAIRS:
        expected = sacrebleu.sentence_bleu(text, [reference]).score / 100
        assert TEXT_SCORES["bleu"](text, [reference]) == pytest.approx(expected)
        expected = sacrebleu.sentence_chrf(text, [reference]).score / 100
        assert TEXT_SCORES["chrf"](text, [reference]) == pytest.approx(expected)
    streams = [[one for _, one in PAIRS]]
    bleu = compute_corpus_score("bleu", texts, references)
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(texts, streams).score)
    chrf = compute_corpus_score("chrf", texts, references)
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(texts, streams).score)
    # texts may have different numbers of references
    more = [[*one, "the cat sat on the mat"] if n == 0 else one for n, one in enumerate(references)]
    assert compute_corpus_score("bleu", texts, more) > bleu


def test_the_corpus_score_is_reported_beside_the_mean_of_sentences():
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = [answer for answer, _ in PAIRS if answer]
    golds = [gold for answer, gold in PAIRS if answer]
    said = iter(reversed(answers))
    task = make_task(*golds, scorer="bleu", parser="verbatim")
    result = evaluate(Scripted(lambda example: next(said)), task).result
    assert result.metrics["corpus_bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(answers, [golds]).score
    )
    sentences = [
        TEXT_SCORES["bleu"](*pair) for pair in zip(answers, [[g] for g in golds], strict=True)
    ]
    assert result.score == pytest.approx(sum(sentences) / len(sentences))


def test_gold_and_answer_are_compared_in_the_same_form():
    pytest.importorskip("sacrebleu")
    # free_text lowers what is read, and so the gold
    task = make_task("The Cat.", scorer="chrf", parser="free_text")
    assert score_answer("the cat", task.test[0], task) == (1.0, True)
    exact = make_task("The Cat.", scorer="chrf", parser="verbatim")
    assert score_answer("the cat", exact.test[0], exact).value < 1
    assert score_answer(None, task.test[0], task) == (0.0, False)


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"rougeL needs rouge-score: pip install 'adapt-jax\[eval\]'"
    ):
        check_installed("rougeL")
    with pytest.raises(UserError, match="pip install"):  # before anything is asked
        evaluate(Scripted(lambda example: 1 / 0), make_task("red", scorer="chrf"))


def test_labels_have_precision_recall_and_macro_f1():
    golds = ["yes", "yes", "yes", "no", "no", "maybe"]
    said = ["yes", "yes", "no", "no", None, "no"]
    task = make_task(*golds, parser="yes_no")
    answers = dict(zip([example.id for example in task.test], said, strict=True))
    metrics = evaluate(Scripted(lambda example: answers[example.id]), task).result.metrics
    assert metrics["label_precision"] == pytest.approx({"yes": 1, "no": 1 / 3, "maybe": 0})
    assert metrics["label_recall"] == pytest.approx({"yes": 2 / 3, "no": 1 / 2, "maybe": 0})
    # F1: 2*2/(2+3), 2*1/(3+2), 0
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)
    assert (
        "macro_f1" not in evaluate(Scripted(lambda example: "x"), make_task("red")).result.metrics
    )


def sampled(name: str, right: int, wrong: int):
    return prediction(name, *[candidate("red")] * right, *[candidate("blue")] * wrong)


def test_pass_at_k_is_the_unbiased_estimate():
    rows = {"q0": sampled("q0", 1, 3), "q1": sampled("q1", 0, 4)}
    result = evaluate(Scripted(lambda example: rows[example.id]), make_task("red", "red")).result
    assert result.metrics["pass_at_k"] == pytest.approx({"1": 1 / 8, "2": 1 / 4, "4": 1 / 2})
    with_three = {"q0": sampled("q0", 2, 3)}
    result = evaluate(Scripted(lambda example: with_three[example.id]), make_task("red")).result
    expected = {str(k): 1 - math.comb(3, k) / math.comb(5, k) for k in (1, 2, 4, 5)}
    assert result.metrics["pass_at_k"] == pytest.approx(expected)


def test_the_calibration_error_is_the_gap_between_agreement_and_accuracy():
    # distinct reasonings: the texts are the same, so each answer counts once
    rows = {
        "q0": prediction(
            "q0", candidate("red", text="a"), candidate("red", text="b")
        ),  # 1.0, right
        "q1": prediction(
            "q1", candidate("blue", text="a"), candidate("blue", text="b")
        ),  # 1.0, wrong
        "q2": prediction(
            "q2", *[candidate("red", text=t) for t in "abc"], candidate("blue", text="d")
        ),  # 0.75, right
    }
    task = make_task("red", "red", "red")
    result = evaluate(Scripted(lambda example: rows[example.id]), task).result
    # bins: 1.0 with accuracy 1/2, 0.75 with accuracy 1
    assert result.metrics["calibration_error"] == pytest.approx((2 * 0.5 + 1 * 0.25) / 3)
