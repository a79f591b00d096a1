"""Looking at validation rows while training: what is measured, where it ends, whose weights are kept, and resuming."""

from __future__ import annotations

import json

import pytest

from farss.errors import ConfigError, StorageError
from farss.model.calibration import Example
from farss.training.sft import train
from farss.training.trainer import SupervisedTrainer

from .conftest import largest_difference, weights
from .test_sft import mean_response_loss


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture
def validation():
    """Rows of lengths that no pass divides, with other tokens than those that are learned."""
    return [Example((5, 6, 7 + i), tuple(range(60, 62 + i))) for i in range(5)]


@pytest.fixture
def overfits(settings):
    """A training whose loss on rows of other tokens falls and then rises; it looks after every second step."""

    def make(**changes):
        usual = {"learning_rate": 3e-2, "epochs": 5.0, "eval_steps": 2, "warmup_ratio": 0.0, "schedule": "constant"}
        return settings(**(usual | changes))

    return make


@pytest.fixture
def losses(monkeypatch):
    """Makes the losses on validation rows those of a list, in order."""

    def fix(*values: float):
        left = list(values)
        loop = SupervisedTrainer.evaluation_loop

        def told(self, *args, **kwargs):
            found = loop(self, *args, **kwargs)
            found.metrics["eval_loss"] = left.pop(0)
            return found

        monkeypatch.setattr(SupervisedTrainer, "evaluation_loop", told)

    return fix


@pytest.mark.case("evaluation while training")
def test_the_mean_loss_per_token_is_measured_and_changes_nothing(
    tiny_llama, tiny_tokenizer, rows, settings, validation, with_lora
):
    results = []
    for config, looked_at in ((settings(), ()), (settings(eval_steps=3), validation)):
        model = with_lora(tiny_llama, dropout=0.2)
        report = train(model, tiny_tokenizer, rows, config, None, validation=looked_at)
        results.append(weights(model, trainable=True))
        expected = mean_response_loss(model.eval(), validation)
        tiny_llama = model.unload()
    assert largest_difference(*results) == 0.0
    found = report.validated
    assert [step for step, _ in found.losses] == [3, 6, 8]  # and at the end
    assert found.losses[-1][1] == pytest.approx(expected, rel=1e-5)
    assert (found.kept_step, found.ended) == (8, "epochs") and len(report.curve) == 8


@pytest.mark.case("early stopping")
def test_training_stops_where_the_loss_no_longer_falls(tiny_llama, tiny_tokenizer, rows, overfits, validation, losses):
    losses(4.0, 3.0, 3.5, 2.5, 2.6, 2.7, 1.0)
    config = overfits(early_stopping_patience=2)
    report = train(tiny_llama, tiny_tokenizer, rows, config, None, validation=validation, trains="weights")
    assert report.steps == 12 < 20
    assert report.validated.to_mapping() == {
        "losses": [[2, 4.0], [4, 3.0], [6, 3.5], [8, 2.5], [10, 2.6], [12, 2.7]],
        "best_step": 8,
        "kept_step": 12,
        "ended": "early_stopping",
    }


@pytest.mark.case("best checkpoint")
@pytest.mark.parametrize("kept", [True, False])
def test_the_model_is_that_of_the_lowest_loss(
    tiny_llama, tiny_tokenizer, rows, overfits, validation, losses, with_lora, tmp_path, kept
):
    start = with_lora(tiny_llama)
    train(start, tiny_tokenizer, rows, overfits(max_steps=4), None, validation=validation)
    expected = weights(start, trainable=True)
    losses(4.0, 3.0, 3.5, 3.6)
    model = with_lora(start.unload())
    config = overfits(max_steps=8, load_best=True)
    report = train(model, tiny_tokenizer, rows, config, tmp_path if kept else None, validation=validation)
    assert (report.validated.best_step, report.validated.kept_step, report.validated.ended) == (4, 4, "max_steps")
    assert report.steps == 8 and largest_difference(expected, weights(model, trainable=True)) == 0.0
    left = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert left == (["checkpoint-4", "checkpoint-8"] if kept else [])


@pytest.mark.case("resuming with the best checkpoint")
@pytest.mark.parametrize("stop", [5, 7, 9])
def test_an_interrupted_training_stops_early_at_the_same_step_with_the_same_weights(
    tiny_llama, tiny_tokenizer, rows, overfits, validation, with_lora, tmp_path, stop
):
    config = overfits(early_stopping_patience=2, load_best=True, save_steps=3)

    def die(step: int, total: int, loss: float) -> None:
        if step == stop:
            raise Interrupted

    def again(folder: str, progress=None):
        nonlocal tiny_llama
        model = with_lora(tiny_llama, dropout=0.2)
        try:
            report = train(
                model, tiny_tokenizer, rows, config, tmp_path / folder, validation=validation, progress=progress
            )
            return report, weights(model, trainable=True)
        finally:
            tiny_llama = model.unload()

    whole, expected = again("whole")
    assert whole.validated.ended == "early_stopping" and whole.validated.best_step < whole.steps
    with pytest.raises(Interrupted):
        again("broken", die)
    rest, found = again("broken")
    assert rest.validated == whole.validated and rest.steps == whole.steps and rest.tokens == whole.tokens
    assert largest_difference(expected, found) == 0.0
    steps: list[int] = []
    finished, found = again("broken", lambda step, *_: steps.append(step))
    assert not steps
    assert finished.validated == whole.validated and largest_difference(expected, found) == 0.0


@pytest.mark.parametrize(("schedule", "own"), [("reduce_lr_on_plateau", {"patience": 0}), ("greedy", {"patience": 0})])
def test_a_schedule_goes_by_the_loss_on_validation_rows(
    tiny_llama, tiny_tokenizer, rows, overfits, validation, losses, monkeypatch, schedule, own
):
    rates, log = [], SupervisedTrainer.log

    def note(self, logs, start_time=None):
        rates.extend([logs["learning_rate"]] if "loss" in logs else [])
        log(self, logs, start_time)

    monkeypatch.setattr(SupervisedTrainer, "log", note)
    losses(*(4.0 + n for n in range(10)))
    config = overfits(schedule=schedule, lr_scheduler_kwargs=own)
    train(tiny_llama, tiny_tokenizer, rows, config, None, validation=validation, trains="weights")
    assert rates[0] == 3e-2 > rates[-1]


def test_checkpoints_of_a_training_with_other_validation_rows_are_refused(
    tiny_llama, tiny_tokenizer, rows, overfits, validation, with_lora, tmp_path
):
    config = overfits(save_steps=2, max_steps=2)
    model = with_lora(tiny_llama)
    train(model, tiny_tokenizer, rows, config, tmp_path, validation=validation)
    with pytest.raises(StorageError, match="another training") as caught:
        train(with_lora(model.unload()), tiny_tokenizer, rows, config, tmp_path, validation=validation[1:])
    assert "validation.rows: 5 -> 4" in str(caught.value)


def test_validation_rows_that_are_missing_are_asked_for(tiny_llama, tiny_tokenizer, rows, settings):
    with pytest.raises(ConfigError, match="there are no validation rows to measure the loss on"):
        train(tiny_llama, tiny_tokenizer, rows, settings(eval_steps=2), None, trains="weights")


def test_what_was_measured_is_plain_json(tiny_llama, tiny_tokenizer, rows, settings, validation):
    config = settings(eval_steps=4)
    report = train(tiny_llama, tiny_tokenizer, rows, config, None, validation=validation, trains="weights")
    found = json.loads(json.dumps(report.validated.to_mapping()))
    assert found["ended"] == "epochs" and [step for step, _ in found["losses"]] == [4, 8]
