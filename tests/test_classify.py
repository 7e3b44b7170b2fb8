"""Scores against values worked out by hand, and against torchmetrics' own one-call versions."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
)

from swinkit.errors import InputError
from swinkit.tasks.classify import Prediction, Scorer, Scores, soft_cross_entropy, top_k

CLASSES = ("cat", "dog", "owl")


def logits_of(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def scores_of(rows: list[list[float]], labels: list[int], classes: tuple[str, ...] = CLASSES) -> Scores:
    scorer = Scorer(classes)
    scorer.update(logits_of(rows), torch.tensor(labels))
    return scorer.compute()


def random_batch(count: int = 500, classes: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    return logits, labels


# Four images: cat seen as cat twice, dog seen as cat, dog seen as dog. No owl, and nothing taken for one.
HAND = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.25, 0.75, 0.0]]
HAND_LABELS = [0, 0, 1, 1]


def test_scores_by_hand() -> None:
    scores = scores_of(HAND, HAND_LABELS)
    assert (scores.count, scores.top1, scores.top5) == (4, 0.75, 1.0)
    assert scores.loss == pytest.approx(-np.log([0.9, 0.6, 0.2, 0.75]).mean(), abs=1e-12)
    assert scores.confusion.dtype == np.int64
    assert scores.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.top1_standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_class_scores_by_hand_and_none_where_undefined() -> None:
    cat, dog, owl = scores_of(HAND, HAND_LABELS).per_class
    assert (cat.name, cat.count, cat.accuracy, cat.precision, cat.f1) == ("cat", 2, 1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (dog.count, dog.accuracy, dog.precision, dog.f1) == (2, 0.5, 1.0, pytest.approx(2 / 3))
    assert (owl.count, owl.accuracy, owl.precision, owl.f1) == (0, None, None, None)


def test_a_class_with_samples_that_is_never_guessed() -> None:
    dog = scores_of([[0.9, 0.1, 0.0]], [1]).per_class[1]
    assert (dog.accuracy, dog.precision, dog.f1) == (0.0, None, 0.0)


def test_a_class_without_samples_that_is_guessed() -> None:
    cat = scores_of([[0.9, 0.1, 0.0]], [1]).per_class[0]
    assert (cat.count, cat.accuracy, cat.precision, cat.f1) == (0, None, 0.0, None)


def test_calibration_error_by_hand() -> None:
    # Confidences 0.9, 0.6, 0.7, 0.75 fall in four different bins of width 1/15 and are right, right, wrong, right.
    assert scores_of(HAND, HAND_LABELS).ece == pytest.approx((0.1 + 0.4 + 0.7 + 0.25) / 4, abs=1e-6)


def test_calibration_puts_full_confidence_into_the_last_bin() -> None:
    # One bin: mean confidence 0.975, accuracy 0.5. Two bins would give (0.05 + 1) / 2 = 0.525.
    assert scores_of([[0.95, 0.05, 0.0], [1.0, 0.0, 0.0]], [0, 1]).ece == pytest.approx(0.475, abs=1e-6)


def test_calibration_bins_by_hand() -> None:
    scores = scores_of([*HAND, [0.95, 0.05, 0.0], [1.0, 0.0, 0.0]], [*HAND_LABELS, 0, 1])
    filled = {place: one for place, one in enumerate(scores.calibration) if one.count}
    assert len(scores.calibration) == 15
    assert {place: one.count for place, one in filled.items()} == {9: 1, 10: 1, 11: 1, 13: 1, 14: 2}
    assert (filled[14].lower, filled[14].upper, filled[14].accuracy) == (14 / 15, 1.0, 0.5)
    assert filled[14].confidence == pytest.approx(0.975, abs=1e-9)
    assert (filled[10].accuracy, filled[10].confidence) == (0.0, pytest.approx(0.7, abs=1e-9))
    assert (scores.calibration[0].confidence, scores.calibration[0].accuracy) == (None, None)


def test_calibration_bins_add_up_to_accuracy_and_error() -> None:
    logits, labels = random_batch()
    scorer = Scorer([str(i) for i in range(8)])
    scorer.update(logits, labels)
    scores = scorer.compute()
    filled = [(one.count, one.accuracy, one.confidence) for one in scores.calibration if one.accuracy is not None and one.confidence]
    assert sum(count * accuracy for count, accuracy, _ in filled) / 500 == pytest.approx(scores.top1, abs=1e-12)
    assert sum(count * confidence for count, _, confidence in filled) / 500 == pytest.approx(
        logits.double().softmax(1).amax(1).mean().item(), abs=1e-9
    )
    assert sum(count * abs(accuracy - confidence) for count, accuracy, confidence in filled) / 500 == pytest.approx(scores.ece, abs=1e-12)


def test_scores_come_back_from_json() -> None:
    scores = scores_of(HAND, HAND_LABELS)
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert again == scores
    assert again.to_dict() == scores.to_dict()
    old = {name: value for name, value in scores.to_dict().items() if name != "calibration"}
    assert Scores.from_dict(old).calibration == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"top1": None},
        {"top1": 1.5},
        {"count": 0},
        {"count": 5},
        {"confusion": [[1]]},
        {"per_class": []},
        {"per_class": [{"name": "cat"}]},
        {"calibration": 3},
        {"ece": float("nan")},
    ],
)
def test_what_is_no_scores_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"expected what Scores\.to_dict gives"):
        Scores.from_dict(scores_of(HAND, HAND_LABELS).to_dict() | changes)


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    scorer = Scorer(("a", "b"))
    scorer.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    assert scorer.compute().ece == pytest.approx(1 - torch.tensor([0.9, 0.1]).softmax(0)[0].item(), abs=1e-6)


def test_top5_counts_the_five_best() -> None:
    row = torch.arange(7.0).expand(7, 7)
    scorer = Scorer([str(i) for i in range(7)])
    scorer.update(row, torch.arange(7))
    assert scorer.compute().top5 == 5 / 7


def test_agrees_with_torchmetrics_in_one_call() -> None:
    logits, labels = random_batch()
    scorer = Scorer([str(i) for i in range(8)])
    scorer.update(logits, labels)
    scores = scorer.compute()
    chances = logits.softmax(1)
    assert scores.top1 == pytest.approx(multiclass_accuracy(chances, labels, 8, average="micro").item(), abs=1e-6)
    assert scores.top5 == pytest.approx(multiclass_accuracy(chances, labels, 8, average="micro", top_k=5).item(), abs=1e-6)
    assert scores.ece == pytest.approx(multiclass_calibration_error(chances, labels, 8).item(), abs=1e-6)
    for name, metric in {"accuracy": multiclass_accuracy, "precision": multiclass_precision, "f1": multiclass_f1_score}.items():
        assert [getattr(score, name) for score in scores.per_class] == pytest.approx(metric(chances, labels, 8, average="none").tolist())


def test_batches_do_not_change_the_scores() -> None:
    logits, labels = random_batch()
    whole, parts = Scorer([str(i) for i in range(8)], keep_mistakes=6), Scorer([str(i) for i in range(8)], keep_mistakes=6)
    whole.update(logits, labels)
    for start in range(0, len(labels), 37):
        parts.update(logits[start : start + 37], labels[start : start + 37])
    first, second = whole.compute().to_dict(), parts.compute().to_dict()
    assert first.pop("loss") == pytest.approx(second.pop("loss"), rel=1e-12)
    assert first.pop("ece") == pytest.approx(second.pop("ece"), abs=1e-6)
    assert first == second
    assert whole.mistakes() == parts.mistakes()


def test_mistakes_are_the_surest_wrong_answers() -> None:
    scorer = Scorer(CLASSES, keep_mistakes=2)
    scorer.update(logits_of([[0.6, 0.3, 0.1], [0.9, 0.05, 0.05]]), torch.tensor([1, 0]), indices=[70, 71])
    scorer.update(logits_of([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]), torch.tensor([2, 1]), indices=torch.tensor([72, 73]))
    found = [(m.index, m.truth, m.predicted, round(m.confidence, 6)) for m in scorer.mistakes()]
    assert found == [(72, 2, 1, 0.7), (70, 1, 0, 0.6)]


def test_mistakes_are_numbered_by_default_and_not_kept_unless_asked() -> None:
    keeping, plain = Scorer(CLASSES, keep_mistakes=5), Scorer(CLASSES)
    for scorer in (keeping, plain):
        scorer.update(logits_of(HAND), torch.tensor(HAND_LABELS))
        scorer.update(logits_of(HAND), torch.tensor(HAND_LABELS))
    assert [m.index for m in keeping.mistakes()] == [2, 6]
    assert plain.mistakes() == []


def test_to_dict_is_strict_json() -> None:
    scorer = Scorer(CLASSES)
    scorer.update(torch.tensor([[0.0, float("-inf"), 1.0]]), torch.tensor([1]))
    scores = scorer.compute()
    assert scores.loss == float("inf")
    read = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert read["loss"] is None
    assert read["per_class"][0]["accuracy"] is None
    assert read["confusion"] == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_table_lines_up_and_leads_with_the_summary() -> None:
    table = scores_of(HAND, HAND_LABELS, ("cat", "狗", "ow\x1bl")).table()
    summary, classes = (part.splitlines() for part in table.split("\n\n"))
    assert summary[:3] == ["images             4", "top-1 accuracy     75.0 % ± 21.7", "top-3 accuracy     100.0 %"]
    assert classes == [
        "class    images  accuracy  precision      F1",
        "cat           2   100.0 %     66.7 %  80.0 %",
        "狗            2    50.0 %    100.0 %  66.7 %",
        "ow\\x1bl       0         -          -       -",
    ]


def test_table_of_many_classes_shows_the_weakest() -> None:
    logits, labels = random_batch(2000, 60)
    scorer = Scorer([f"class {i}" for i in range(60)])
    scorer.update(logits, labels)
    scores = scorer.compute()
    table = scores.table()
    assert table.endswith("and 20 classes with higher accuracy")
    weakest = min(scores.per_class, key=lambda score: score.accuracy or 0.0)
    assert table.splitlines()[7].startswith(weakest.name)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_cross_entropy_on_indices_equals_its_one_hot_form(smoothing: float) -> None:
    logits, labels = random_batch(6)
    soft = torch.nn.functional.one_hot(labels, 8).float()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, smoothing), expected)
    torch.testing.assert_close(soft_cross_entropy(logits, soft, smoothing), expected)


def test_soft_cross_entropy_of_half_logits_is_float32() -> None:
    logits, labels = random_batch(6)
    loss = soft_cross_entropy(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_cross_entropy(logits.bfloat16().float(), labels))


@pytest.mark.parametrize("targets", [torch.zeros(5, dtype=torch.long), torch.zeros(4, 7), torch.zeros(4, 8, dtype=torch.long)])
def test_soft_cross_entropy_refuses_shapes_that_do_not_fit(targets: Tensor) -> None:
    with pytest.raises(InputError, match=r"logits \(4, 8\)"):
        soft_cross_entropy(torch.zeros(4, 8), targets, 0.1)


def test_top_k_sorts_and_clips() -> None:
    (prediction,) = top_k(logits_of([[0.2, 0.7, 0.1]]).half(), CLASSES, 5, ["a.png"])
    assert prediction.labels == ("dog", "cat", "owl")
    assert prediction.indices == (1, 0, 2)
    assert prediction.scores == pytest.approx((0.7, 0.2, 0.1), abs=1e-3)
    assert (prediction.label, prediction.score) == ("dog", prediction.scores[0])


def test_prediction_for_people_and_machines() -> None:
    prediction = Prediction(("dog", "cat"), (0.75, 0.2), (1, 0), "odd\x1b[31m.png")
    assert str(prediction) == "odd\\x1b[31m.png: dog 75.0 %, cat 20.0 %"
    assert json.loads(json.dumps(prediction.to_dict())) == {
        "source": "odd\x1b[31m.png",
        "label": "dog",
        "score": 0.75,
        "top": [{"label": "dog", "score": 0.75, "index": 1}, {"label": "cat", "score": 0.2, "index": 0}],
    }


def test_top_k_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(InputError, match="2 sources for 1 images"):
        top_k(torch.zeros(1, 3), CLASSES, 1, ["a", "b"])
    with pytest.raises(InputError, match="k = 0"):
        top_k(torch.zeros(1, 3), CLASSES, 0, ["a"])
    with pytest.raises(InputError, match="not finite for 1 of 2"):
        top_k(torch.tensor([[0.0, 1.0, 2.0], [float("nan"), 0.0, 0.0]]), CLASSES, 1, ["a", "b"])


@pytest.mark.parametrize(
    ("logits", "labels", "indices", "message"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 1]), None, r"shape \(2, 4\) for 3 classes"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), None, "0 to 3, but there are 3 classes"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), None, "-1 to 0"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), None, "float32 labels"),
        (torch.zeros(2, 3), torch.tensor([0]), None, "for 2 images"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), [5], "1 indices for 2 images"),
        (torch.full((2, 3), float("nan")), torch.tensor([0, 1]), None, "not finite for 2 of 2"),
    ],
)
def test_scorer_refuses_what_it_cannot_score(logits: Tensor, labels: Tensor, indices: list[int] | None, message: str) -> None:
    scorer = Scorer(CLASSES)
    with pytest.raises(InputError, match=message):
        scorer.update(logits, labels, indices)
    with pytest.raises(InputError, match="nothing to score"):
        scorer.compute()


def test_scorer_takes_an_empty_batch_and_refuses_a_single_class() -> None:
    scorer = Scorer(CLASSES)
    scorer.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="nothing to score"):
        scorer.compute()
    with pytest.raises(InputError, match="Got 1 classes"):
        Scorer(["only"])
