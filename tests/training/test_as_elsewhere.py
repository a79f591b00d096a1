"""Schedules, optimisers, warm-up, length, noise and trackers: transformers' own, asked for by our settings."""

from __future__ import annotations

import types

import pytest
import torch
from transformers import TrainerCallback

from farss.errors import ConfigError
from farss.methods.aids import aids_of_methods
from farss.train_settings import BY_VALIDATION, OPTIMISERS, SCHEDULES
from farss.training.readiness import check_classifier_training, check_training
from farss.training.sft import train
from farss.training.trainer import SupervisedTrainer

from .conftest import largest_difference, weights

NEEDS = {
    "cosine_with_min_lr": {"min_lr": 1e-4},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 2},
}
OTHERS = sorted(set(SCHEDULES) - {"linear", "cosine", "constant", *BY_VALIDATION})


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of every step."""
    found, log = [], SupervisedTrainer.log

    def note(self, logs, start_time=None):
        found.extend([logs["learning_rate"]] if "loss" in logs else [])
        log(self, logs, start_time)

    monkeypatch.setattr(SupervisedTrainer, "log", note)
    return found


@pytest.mark.case("any schedule of transformers")
@pytest.mark.parametrize("schedule", OTHERS)
def test_a_schedule_gives_the_rates_that_transformers_gives(
    tiny_llama, tiny_tokenizer, rows, settings, rates, schedule
):
    from transformers import get_scheduler

    own = NEEDS.get(schedule, {})
    config = settings(schedule=schedule, lr_scheduler_kwargs=own, warmup_steps=2, max_steps=6)
    train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights")
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    expected = get_scheduler(SCHEDULES[schedule], alone, 2, 6, own)
    wanted = []
    for _ in range(6):
        wanted.append(alone.param_groups[0]["lr"])
        alone.step()
        expected.step()
    assert rates == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("schedule", "own", "what"),
    [
        ("warmup_stable_decay", {}, "the schedule cannot be made of its settings"),
        ("cosine_with_min_lr", {}, "the schedule cannot be made of its settings"),
        ("linear", {"min_lr": 1.0}, "the schedule cannot be made of its settings"),
        ("constant", {"min_lr": 1.0}, "the schedule `constant` has no settings"),
    ],
)
def test_a_schedule_that_cannot_be_made_is_refused_before_a_model_is_needed(settings, schedule, own, what):
    with pytest.raises(ConfigError, match=what) as caught:
        check_training(settings(schedule=schedule, lr_scheduler_kwargs=own))
    assert "lr_scheduler_kwargs" in str(caught.value)


@pytest.mark.case("max_steps and warmup_steps")
def test_a_training_has_as_many_steps_as_were_asked_for(tiny_llama, tiny_tokenizer, rows, settings, rates):
    config = settings(epochs=1.0, max_steps=7, warmup_steps=3, learning_rate=3e-3)
    report = train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights")
    assert report.steps == 7 > 4  # one epoch is 4 steps
    assert rates == pytest.approx([0.0, 1e-3, 2e-3, 3e-3, 2.25e-3, 1.5e-3, 0.75e-3])


def test_fewer_steps_than_an_epoch_go_on_from_a_checkpoint(
    tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path
):
    config, results = settings(max_steps=6, save_steps=3), []
    for folder, stop in (("whole", 0), ("broken", 5), ("broken", 0)):
        model = with_lora(tiny_llama)

        def watch(step, total, loss, stop=stop):
            assert total == 6
            if step == stop:
                raise KeyboardInterrupt

        try:
            train(model, tiny_tokenizer, rows, config, tmp_path / folder, progress=watch)
            results.append(weights(model, trainable=True))
        except KeyboardInterrupt:
            pass
        tiny_llama = model.unload()
    assert largest_difference(*results) < 1e-6


@pytest.mark.case("optimisers and their numbers")
@pytest.mark.parametrize("optim", [name for name, package in OPTIMISERS.items() if package is None])
def test_an_optimiser_of_transformers_trains(tiny_llama, tiny_tokenizer, rows, settings, with_lora, optim):
    rate = 1.0 if optim == "sgd" else 1e-2
    config = settings(optim=optim, learning_rate=rate, epochs=4.0, warmup_ratio=0.0)
    report = train(with_lora(tiny_llama), tiny_tokenizer, rows, config, None)
    assert report.curve[-1][1] < report.curve[0][1]


def test_betas_and_epsilon_reach_the_optimiser(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch):
    seen, make = [], SupervisedTrainer.create_optimizer

    def note(self, model=None):
        seen.append(make(self, model))
        return seen[-1]

    monkeypatch.setattr(SupervisedTrainer, "create_optimizer", note)
    config = settings(adam_beta1=0.5, adam_beta2=0.7, adam_epsilon=1e-3, max_steps=1)
    train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights")
    assert seen[0].defaults["betas"] == (0.5, 0.7) and seen[0].defaults["eps"] == 1e-3


@pytest.mark.parametrize(
    ("changes", "setting", "package"),
    [
        ({"optim": "lion_8bit"}, "optim", "bitsandbytes"),
        ({"optim": "stable_adamw"}, "optim", "torch-optimi"),
        ({"report_to": "clearml"}, "report_to", "clearml"),
    ],
)
def test_a_package_that_is_missing_is_named_before_a_model_is_needed(settings, monkeypatch, changes, setting, package):
    from transformers import integrations

    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(ConfigError, match="needs a package that is not installed") as caught:
        check_training(settings(**changes))
    assert setting in str(caught.value) and f"pip install {package}" in str(caught.value)


def test_noise_of_embeddings_changes_the_training_and_is_taken_off(tiny_llama, tiny_tokenizer, rows, settings):
    start = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    curves = []
    for alpha in (None, 5.0):
        tiny_llama.load_state_dict(start)
        config = settings(neftune_noise_alpha=alpha)
        curves.append(train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights").curve)
    assert curves[0][0][1] != curves[1][0][1]

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_llama, tiny_tokenizer, rows, config, None, trains="weights", progress=die)
    assert not tiny_llama.get_input_embeddings()._forward_hooks


class Board(TrainerCallback):
    """Stands for a tracker: what it was told, and where it would write."""

    told: list[tuple[int, float]]
    folders: list[str]
    logging_dir: str | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        Board.folders.append(str(self.logging_dir))

    def on_log(self, args, state, control, logs=None, **kwargs):
        Board.told += [(state.global_step, logs["loss"])] if "loss" in logs else []


@pytest.fixture
def board(monkeypatch):
    """A tracker in TensorBoard's place."""
    from transformers import integrations
    from transformers.integrations import integration_utils

    Board.told, Board.folders = [], []
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Board)
    return Board


@pytest.mark.case("reporting to TensorBoard")
def test_a_tracker_is_told_the_mean_of_its_steps_and_the_curve_has_all(
    tiny_llama, tiny_tokenizer, rows, settings, board, tmp_path
):
    config = settings(report_to="tensorboard", logging_steps=3)
    report = train(tiny_llama, tiny_tokenizer, rows, config, tmp_path / "out", trains="weights")
    losses = [loss for _, loss in report.curve]
    assert len(losses) == 8
    assert board.told == [(3, pytest.approx(sum(losses[:3]) / 3)), (6, pytest.approx(sum(losses[3:6]) / 3))]
    assert board.folders == [str(tmp_path / "out" / "logs")]


def test_what_was_reported_goes_when_a_training_begins_again(
    tiny_llama, tiny_tokenizer, rows, settings, board, monkeypatch, tmp_path
):
    def write(self, args, state, control, **kwargs):
        from pathlib import Path

        folder = Path(self.logging_dir)
        assert not list(folder.glob("*"))
        folder.mkdir(exist_ok=True)
        (folder / "events").write_text("loss")

    monkeypatch.setattr(Board, "on_train_begin", write)
    config = settings(report_to="tensorboard", max_steps=1)
    for _ in range(2):
        train(tiny_llama, tiny_tokenizer, rows, config, tmp_path / "out", trains="weights", resume=False)
    assert (tmp_path / "out" / "logs" / "events").exists()


def test_a_training_without_a_folder_is_not_reported(tiny_llama, tiny_tokenizer, rows, settings, board):
    with pytest.raises(ConfigError, match="a training is reported from its folder"):
        train(tiny_llama, tiny_tokenizer, rows, settings(report_to="tensorboard"), None, trains="weights")


def test_the_newest_checkpoints_are_kept(tiny_llama, tiny_tokenizer, rows, settings, with_lora, tmp_path):
    train(with_lora(tiny_llama), tiny_tokenizer, rows, settings(save_steps=2, save_total_limit=3), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (4, 6, 8)]


def test_float16_is_refused_without_a_gpu(tiny_llama, tiny_tokenizer, rows, settings):
    with pytest.raises(ConfigError, match="training in float16 needs a GPU"):
        train(tiny_llama, tiny_tokenizer, rows, settings(precision="float16"), None, trains="weights")


@pytest.mark.parametrize("changes", [{"precision": "float16"}, {"eval_steps": 1, "load_best": True}])
def test_a_method_that_cuts_ranks_refuses_what_leaves_them_uncut(settings, changes):
    check_training(settings(**changes), aids_of_methods(["lora"]))
    with pytest.raises(ConfigError, match="adalora"):
        check_training(settings(**changes), aids_of_methods(["lora", "adalora"]))


@pytest.mark.parametrize("changes", [{"packing": True}, {"report_to": "tensorboard"}])
def test_classifiers_refuse_what_their_trainings_do_not_have(settings, changes):
    with pytest.raises(ConfigError, match=r"packed|tracker"):
        check_classifier_training(settings(**changes), aids_of_methods(["lora"]))


def test_a_scale_is_sought_in_float16_until_it_is_too_small():
    def judged(scale: float, skipped: bool) -> bool:
        scaler = types.SimpleNamespace(get_scale=lambda: scale)
        accelerator = types.SimpleNamespace(scaler=scaler, optimizer_step_was_skipped=skipped)
        return SupervisedTrainer._seeks_scale(types.SimpleNamespace(accelerator=accelerator))  # type: ignore[arg-type]

    assert judged(65536.0, True) and not judged(65536.0, False) and not judged(0.5, True)
