from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from farss.errors import DataError, ModelError, NumericalError, StorageError
from farss.model.calibration import Example
from farss.training.arguments import warmup_steps
from farss.training.checkpoints import checkpoint_written
from farss.training.sft import train

from .conftest import largest_difference, weights


def mean_response_loss(model, rows) -> float:
    """Mean negative log-probability of response tokens, one unpadded row at a time, in float64."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        with torch.no_grad():
            log_p = functional.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        for position in range(max(len(row.prompt_ids), 1), len(row)):
            total -= float(log_p[position - 1, ids[0, position]])
            count += 1
    return total / count


def test_the_first_loss_is_the_mean_over_response_tokens(tiny_llama, tiny_tokenizer, rows, settings):
    expected = mean_response_loss(tiny_llama, rows)
    report = train(tiny_llama, tiny_tokenizer, rows, settings(epochs=1.0, batch_size=len(rows)), None, trains="weights")
    assert report.steps == 1 and report.curve[0] == (1, pytest.approx(expected, rel=1e-5))
    assert report.tokens == sum(len(row) for row in rows)
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    assert report.peak_bytes > 0


def test_prompt_tokens_carry_no_loss(tiny_llama, tiny_tokenizer, settings):
    """A row whose response has one token gives exactly that token's loss."""
    row = Example((5, 6, 7), (8,))
    expected = mean_response_loss(tiny_llama, [row])
    report = train(tiny_llama, tiny_tokenizer, [row], settings(batch_size=1, epochs=1.0), None, trains="weights")
    assert report.curve[0][1] == pytest.approx(expected, rel=1e-5)


def test_gpt2_trains_too(tiny_gpt2, tiny_tokenizer, rows, settings):
    expected = mean_response_loss(tiny_gpt2, rows)
    for module in tiny_gpt2.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    report = train(tiny_gpt2, tiny_tokenizer, rows, settings(batch_size=13, epochs=1.0), None, trains="weights")
    assert report.curve[0][1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_do_not_change_the_result(tiny_llama, tiny_tokenizer, rows, settings, with_lora, micro):
    start = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    whole = with_lora(tiny_llama)
    first = train(whole, tiny_tokenizer, rows, settings(micro_batch_size=4), None)
    expected = weights(whole, trainable=True)
    base = whole.unload()
    base.load_state_dict(start)
    split = with_lora(base)
    second = train(split, tiny_tokenizer, rows, settings(micro_batch_size=micro), None)
    assert first.steps == second.steps == 8
    assert [loss for _, loss in second.curve] == pytest.approx([loss for _, loss in first.curve], rel=1e-4)
    assert largest_difference(expected, weights(split, trainable=True)) < 1e-4


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    tiny_llama, tiny_tokenizer, rows, settings, with_lora
):
    results = []
    for seed in (5, 5, 6):
        model = with_lora(tiny_llama, dropout=0.2)
        train(model, tiny_tokenizer, rows, settings(seed=seed), None)
        results.append(weights(model, trainable=True))
        tiny_llama = model.unload()
    assert largest_difference(results[0], results[1]) == 0.0
    assert largest_difference(results[0], results[2]) > 0.0


def test_only_parameters_that_require_gradients_move(tiny_llama, tiny_tokenizer, rows, settings, with_lora):
    model = with_lora(tiny_llama)
    frozen, learned = weights(model, trainable=False), weights(model, trainable=True)
    train(model, tiny_tokenizer, rows, settings(), None)
    assert largest_difference(frozen, weights(model, trainable=False)) == 0.0
    assert largest_difference(learned, weights(model, trainable=True)) > 1e-3
    assert all(p.grad is None for p in model.parameters())


def test_training_lowers_the_loss(tiny_llama, tiny_tokenizer, rows, settings):
    report = train(tiny_llama, tiny_tokenizer, rows, settings(epochs=6.0), None, trains="weights")
    assert report.curve[-1][1] < 0.7 * report.curve[0][1]


def test_the_model_keeps_its_mode_and_settings(tiny_llama, tiny_tokenizer, rows, settings):
    tiny_llama.config.use_cache = True
    train(tiny_llama.eval(), tiny_tokenizer, rows, settings(gradient_checkpointing=True), None, trains="weights")
    assert not tiny_llama.training and tiny_llama.config.use_cache and not tiny_llama.is_activation_checkpointing
    assert tiny_llama(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[1] == 3  # no hook stays behind


def test_gradient_checkpointing_gives_the_same_weights(tiny_llama, tiny_tokenizer, rows, settings, with_lora):
    results = []
    for checkpointing in (False, True):
        model = with_lora(tiny_llama)
        train(model, tiny_tokenizer, rows, settings(gradient_checkpointing=checkpointing), None)
        results.append(weights(model, trainable=True))
        tiny_llama = model.unload()
    assert largest_difference(*results) < 1e-5


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize(("stop", "micro"), [(3, 4), (4, 2), (6, 1)])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path, stop, micro
):
    config = settings(save_steps=2, micro_batch_size=micro)

    def die(step: int, total: int, loss: float) -> None:
        if step == stop + 1:
            raise Interrupted

    model = with_lora(tiny_llama, dropout=0.1)
    whole = train(model, tiny_tokenizer, rows, config, tmp_path / "whole")
    expected = weights(model, trainable=True)
    model = with_lora(model.unload(), dropout=0.1)
    with pytest.raises(Interrupted):
        train(model, tiny_tokenizer, rows, config, tmp_path / "broken", progress=die)
    model = with_lora(model.unload(), dropout=0.1)
    steps = []
    rest = train(
        model, tiny_tokenizer, rows, config, tmp_path / "broken", progress=lambda step, total, loss: steps.append(step)
    )
    assert steps[0] == stop - stop % 2 + 1 and rest.steps == whole.steps == 8
    assert [loss for _, loss in rest.curve] == pytest.approx([loss for _, loss in whole.curve], rel=1e-5)
    assert rest.tokens == whole.tokens
    assert largest_difference(expected, weights(model, trainable=True)) < 1e-6


def test_a_finished_training_is_not_repeated(tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path):
    config = settings(save_steps=100, epochs=0.5)
    model = with_lora(tiny_llama)
    first = train(model, tiny_tokenizer, rows, config, tmp_path)
    expected = weights(model, trainable=True)
    model = with_lora(model.unload())
    steps = []
    second = train(model, tiny_tokenizer, rows, config, tmp_path, progress=lambda *step: steps.append(step))
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not steps and second.curve == first.curve and second.steps == first.steps == 2
    assert largest_difference(expected, weights(model, trainable=True)) == 0.0


def test_checkpoints_of_another_training_are_refused(tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path):
    model = with_lora(tiny_llama)
    train(model, tiny_tokenizer, rows, settings(save_steps=2), tmp_path)
    model = with_lora(model.unload())
    with pytest.raises(StorageError, match="another training") as caught:
        train(model, tiny_tokenizer, rows, settings(save_steps=2, learning_rate=1e-3), tmp_path)
    assert "settings" in str(caught.value)
    again = train(model, tiny_tokenizer, rows, settings(save_steps=2, learning_rate=1e-3), tmp_path, resume=False)
    assert again.steps == 8


def test_a_checkpoint_cut_short_is_passed_over(tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path):
    model = with_lora(tiny_llama)
    train(model, tiny_tokenizer, rows, settings(save_steps=3), tmp_path)
    expected = weights(model, trainable=True)
    with pytest.raises(Interrupted), checkpoint_written(tmp_path, 99):
        (tmp_path / "checkpoint-99").mkdir()
        (tmp_path / "checkpoint-99" / "trainer_state.json").write_text('{"global_st')
        raise Interrupted
    model = with_lora(model.unload())
    assert train(model, tiny_tokenizer, rows, settings(save_steps=3), tmp_path).steps == 8
    assert largest_difference(expected, weights(model, trainable=True)) == 0.0


def test_an_adapter_with_a_start_trains_and_resumes(tiny_llama, tiny_tokenizer, rows, settings, tmp_path):
    from farss.adapters.apply import apply
    from farss.model.plan import Plan, TargetPlan
    from farss.model.sources import fingerprint

    names = [f"model.layers.{i}.mlp.up_proj" for i in range(3)]
    targets = tuple(TargetPlan(n, i, "deep", (64, 32), 3, 1.0, (0, 4, 9)) for i, n in enumerate(names))
    plan = Plan("farss", "spectral", "reference", fingerprint(tiny_llama), {"seed": 0}, targets)
    before = tiny_llama(input_ids=torch.tensor([[5, 6, 7]])).logits.detach()
    config, results = settings(save_steps=2), []
    model = apply(tiny_llama, plan, dropout=0.1)
    frozen = weights(model, trainable=False)
    train(model, tiny_tokenizer, rows, config, tmp_path / "a")
    results.append(weights(model, trainable=True))
    assert largest_difference(frozen, weights(model, trainable=False)) == 0.0
    assert (model(input_ids=torch.tensor([[5, 6, 7]])).logits - before).abs().max() > 1e-2

    def die(step: int, total: int, loss: float) -> None:
        if step == 4:
            raise Interrupted

    for interrupted in (True, False):
        model = apply(model.unload(), plan, dropout=0.1)
        if interrupted:
            with pytest.raises(Interrupted):
                train(model, tiny_tokenizer, rows, config, tmp_path / "b", progress=die)
        else:
            train(model, tiny_tokenizer, rows, config, tmp_path / "b")
    assert model.base_model.active_adapters == ["default"]
    assert largest_difference(results[0], weights(model, trainable=True)) < 1e-6


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_follows_the_schedule(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch, schedule):
    import farss.training.trainer as home

    rates = []
    log = home.SupervisedTrainer.log

    def note(self, logs, start_time=None):
        rates.extend([logs["learning_rate"]] if "loss" in logs else [])
        log(self, logs, start_time)

    monkeypatch.setattr(home.SupervisedTrainer, "log", note)
    config = settings(schedule=schedule, warmup_ratio=0.2, learning_rate=1e-3)
    train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights")
    total, warm = 8, 2
    assert warmup_steps(total, config) == warm

    def rate(step: int) -> float:
        if step < warm:
            return step / warm
        done = (step - warm) / (total - warm)
        return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[schedule]

    assert rates == pytest.approx([1e-3 * rate(step) for step in range(total)])


def test_warm_up_is_rounded_up(settings):
    share = settings(warmup_ratio=0.03)
    assert [warmup_steps(n, share) for n in (1, 33, 34, 100, 0)] == [1, 1, 2, 3, 0]
    assert warmup_steps(10, settings(warmup_ratio=0.0)) == 0 and warmup_steps(10, settings(warmup_steps=7)) == 7


def test_half_precision_weights_become_float32_before_they_learn(tiny_llama, tiny_tokenizer, rows, settings):
    model = tiny_llama.to(torch.bfloat16)
    train(model, tiny_tokenizer, rows, settings(precision="bfloat16"), None, trains="weights")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_adapters_learn_in_float32_on_a_bfloat16_base(tiny_llama, tiny_tokenizer, rows, settings, with_lora):
    model = with_lora(tiny_llama.to(torch.bfloat16))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    before = mean_response_loss(model, rows)
    train(model, tiny_tokenizer, rows, settings(precision="bfloat16", epochs=4.0), None)
    assert {p.dtype for p in weights(model, trainable=True).values()} == {torch.float32}
    assert {p.dtype for p in weights(model, trainable=False).values()} == {torch.bfloat16}
    assert mean_response_loss(model, rows) < before - 0.05
    from peft.tuners.lora import LoraLayer

    assert all(m.cast_input_dtype_enabled for m in model.modules() if isinstance(m, LoraLayer))


def test_progress_is_told_every_step(tiny_llama, tiny_tokenizer, rows, settings, capsys):
    told = []
    report = train(
        tiny_llama,
        tiny_tokenizer,
        rows,
        settings(),
        None,
        trains="weights",
        progress=lambda step, total, loss: told.append((step, total, loss)),
    )
    assert [(step, loss) for step, _, loss in told] == list(report.curve) and {total for _, total, _ in told} == {8}
    assert capsys.readouterr().out == ""


def test_a_loss_that_is_not_finite_stops_with_the_step(tiny_llama, tiny_tokenizer, rows, settings):
    def poison(step: int, total: int, loss: float) -> None:
        if step == 3:
            tiny_llama.model.norm.weight.data.fill_(math.nan)

    with pytest.raises(NumericalError, match="not finite") as caught:
        train(tiny_llama, tiny_tokenizer, rows, settings(), None, trains="weights", progress=poison)
    assert "step 4 of 8" in str(caught.value) and "learning rate" in str(caught.value)


def test_no_examples_are_refused(tiny_llama, tiny_tokenizer, settings):
    with pytest.raises(DataError, match="no examples"):
        train(tiny_llama, tiny_tokenizer, [], settings(), None)


@pytest.mark.parametrize("row", [Example((4, 5), ()), Example((), (4,))])
def test_rows_without_anything_to_learn_are_refused(tiny_llama, tiny_tokenizer, rows, settings, row):
    with pytest.raises(DataError, match="no response token") as caught:
        train(tiny_llama, tiny_tokenizer, [*rows, row], settings(), None)
    assert "row 13" in str(caught.value)


def test_a_frozen_model_is_refused(tiny_llama, tiny_tokenizer, rows, settings):
    with pytest.raises(ModelError, match="requires gradients"):
        train(tiny_llama.requires_grad_(False), tiny_tokenizer, rows, settings(), None)


def test_a_checkpoint_that_cannot_be_written_is_named(
    tiny_llama, tiny_tokenizer, rows, settings, monkeypatch, tmp_path
):
    def full(*args, **kwargs):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="free some space"):
        train(tiny_llama, tiny_tokenizer, rows, settings(save_steps=2), tmp_path, trains="weights")


def test_a_folder_that_cannot_be_made_is_named(tiny_llama, tiny_tokenizer, rows, settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        train(tiny_llama, tiny_tokenizer, rows, settings(), tmp_path / "file" / "out", trains="weights")
