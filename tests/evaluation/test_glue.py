"""GLUE metrics against hand-computed values, and answers in the order of their rows."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from tests.classifiers import PAD, labelled, tiny_classifier

from farss.datasets.glue import GlueRow, GlueTask, glue_task
from farss.errors import ConfigError, DataError, NumericalError, StorageError
from farss.evaluation.glue import GlueSample, load_samples, majority_samples, predict, samples_of, save_samples, score
from farss.model.classification import labelled_batches

ALL = GlueTask("all", ("sentence",), ("no", "yes"), ("accuracy", "f1", "matthews"))
NUMBERS = GlueTask("numbers", ("sentence",), (), ("pearson", "spearman"))


def run(task, truth, said):
    return [GlueSample(task.name, "v", str(i), t, s, ()) for i, (t, s) in enumerate(zip(truth, said, strict=True))]


def values(task, truth, said):
    return {name: found["value"] for name, found in score(task, [run(task, truth, said)], bootstrap=20).items()}


def test_metrics_of_classes_are_the_hand_computed_ones():
    truth = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    said = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]  # tp 3, fn 1, fp 1, tn 5
    found = values(ALL, truth, said)
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["matthews"] == pytest.approx((3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6))
    constant = values(ALL, truth, [0] * 10)
    assert constant == {"accuracy": 0.6, "f1": 0.0, "matthews": 0.0}


def test_metrics_of_numbers_are_the_hand_computed_ones():
    truth, said = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 9.0]
    # means 3 and 3.8; sum of products 16, sums of squares 10 and 38.8
    found = values(NUMBERS, truth, said)
    assert found["pearson"] == pytest.approx(16 / math.sqrt(10 * 38.8))
    assert found["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 1 + 1 + 0) / (5 * 24))
    assert values(NUMBERS, truth, [3.0] * 5) == {"pearson": None, "spearman": None}


def test_the_standard_error_of_a_mean_is_exact_and_of_others_near_what_theory_says():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(400, generator=draw)
    said = truth + 0.75 * torch.randn(400, generator=draw)
    (found,) = [score(NUMBERS, [run(NUMBERS, truth.tolist(), said.tolist())], bootstrap=300)["pearson"]]
    assert found["stderr"] == pytest.approx((1 - found["value"] ** 2) / math.sqrt(400), rel=0.25)
    accuracy = score(ALL, [run(ALL, [1, 1, 0, 0], [1, 1, 1, 0])], bootstrap=5)["accuracy"]
    assert accuracy["n"] == 4 and accuracy["stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_numbers_of_combinations_are_resampled_as_rows_would_be(metric):
    from sklearn.metrics import f1_score, matthews_corrcoef

    measure = {"f1": f1_score, "matthews": matthews_corrcoef}[metric]
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 2, 200)
    runs = [np.where(draw.random(200) < right, truth, 1 - truth) for right in (0.7, 0.9)]
    found = score(ALL, [run(ALL, truth.tolist(), said.tolist()) for said in runs], bootstrap=600)[metric]
    means = []
    for _ in range(600):
        rows = draw.integers(0, 200, 200)
        means.append(np.mean([measure(truth[rows], said[rows]) for said in runs]))
    assert found["stderr"] == pytest.approx(np.std(means, ddof=1), rel=0.15)


def test_several_runs_are_scored_on_average_over_the_same_rows():
    truth = [1, 0, 1, 0, 1, 0]
    one, two = run(ALL, truth, truth), run(ALL, truth, [0] * 6)
    together = score(ALL, [one, two], bootstrap=50)
    assert together["accuracy"]["value"] == pytest.approx(0.75) and together["matthews"]["value"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="different rows"):
        score(ALL, [one, two[::-1]])
    with pytest.raises(DataError, match="no answers"):
        score(ALL, [[]])


def test_the_guess_that_never_looks():
    training = [GlueRow(str(i), ("a",), label) for i, label in enumerate([1, 0, 1])]
    rows = [GlueRow("x", ("b",), 0), GlueRow("y", ("c",), 1)]
    assert [s.prediction for s in majority_samples(ALL, "v", rows, training)] == [1, 1]
    numbers = [GlueRow(str(i), ("a",), label) for i, label in enumerate([1.0, 4.0])]
    assert [s.prediction for s in majority_samples(NUMBERS, "v", rows, numbers)] == [2.5, 2.5]


@pytest.mark.parametrize("classes", [3, 1])
def test_answers_come_in_the_order_of_the_rows(classes):
    model, examples = tiny_classifier("bert", classes), labelled(9, classes=classes)
    outputs = predict(model, examples, pad_id=PAD, batch_tokens=40)
    for example, output in zip(examples, outputs, strict=True):
        (alone,) = labelled_batches([example], batch_tokens=99, pad_id=PAD)
        with torch.no_grad():
            assert output == pytest.approx(model(**alone.inputs).logits[0].tolist(), abs=1e-5)
    rows = [GlueRow(str(i), ("a",), e.label) for i, e in enumerate(examples)]
    task = glue_task("mnli" if classes == 3 else "stsb")
    for sample, output in zip(samples_of(task, "v", rows, outputs), outputs, strict=True):
        assert sample.prediction == (output.index(max(output)) if classes == 3 else output[0])
    model.classifier.bias.data[0] = float("inf")
    with pytest.raises(NumericalError, match="not finite"):
        predict(model, examples, pad_id=PAD)


def test_samples_are_read_as_they_were_written(tmp_path):
    samples = [
        GlueSample("sst2", "validation", "7", 1, 0, (0.25, -1.5)),
        GlueSample("stsb", "v", "8", 2.5, 1.0, (1.0,)),
    ]
    save_samples(samples, tmp_path / "s.jsonl.gz")
    assert load_samples(tmp_path / "s.jsonl.gz") == samples
    (tmp_path / "s.jsonl.gz").write_bytes(b"no")
    with pytest.raises(StorageError, match="samples file cannot be read"):
        load_samples(tmp_path / "s.jsonl.gz")


def test_without_scikit_learn_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ConfigError, match="metrics of GLUE need scikit-learn"):
        score(ALL, [run(ALL, [1, 0], [1, 0])])
