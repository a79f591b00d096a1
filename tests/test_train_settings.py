"""Training settings: what other tools call otherwise, impossible values, and what recipes without them keep."""

from __future__ import annotations

import pytest

from farss.config import Recipe, TrainConfig
from farss.errors import ConfigError
from farss.train_settings import LATER, SAID_OTHERWISE, SAME, USUAL


@pytest.mark.case("names of other tools")
@pytest.mark.parametrize("name", SAID_OTHERWISE)
def test_a_name_of_another_tool_says_what_is_said_here(name):
    for made in (lambda: TrainConfig.from_mapping({name: 1}), lambda: Recipe().override({f"train.{name}": 1})):
        with pytest.raises(ConfigError, match=f"`{name}` is not a setting here") as caught:
            made()
        assert SAID_OTHERWISE[name] in str(caught.value)


@pytest.mark.parametrize("name", [name for name, hint in SAID_OTHERWISE.items() if hint.startswith("say `")])
def test_what_is_said_instead_is_a_setting(name):
    assert SAID_OTHERWISE[name].split("`")[1].partition(":")[0] in USUAL


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"schedule": "cosinus"}, "did you mean `cosine`?"),
        ({"optim": "adamw"}, "adamw_torch"),
        ({"optim": "galore_adamw_layerwise"}, "`galore_adamw_layerwise` is not taken"),
        ({"optim": "lomo"}, "inside the backward pass"),
        ({"optim": "schedule_free_adamw"}, "not those that are measured"),
        ({"report_to": "tensorboard,tensorbord"}, "did you mean `tensorboard`?"),
        ({"report_to": "all"}, "report_to"),
        ({"max_steps": 0}, "max_steps"),
        ({"eval_steps": -1}, "eval_steps"),
        ({"save_steps": 0}, "save_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"adam_beta2": 1.0}, "adam_beta1, adam_beta2"),
        ({"adam_epsilon": 0.0}, "adam_epsilon"),
        ({"neftune_noise_alpha": 0.0}, "neftune_noise_alpha"),
        ({"neftune_noise_alpha": 5.0, "packing": True}, "which packing changes"),
        ({"load_best": True}, "set train.eval_steps"),
        ({"early_stopping_patience": 2}, "set train.eval_steps"),
        ({"schedule": "greedy"}, "set train.eval_steps"),
        ({"schedule": "greedy", "eval_steps": 1, "warmup_steps": 3}, "the schedule has no warm-up"),
    ],
)
def test_impossible_training_settings_are_refused(changes, what):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**changes)
    assert what in str(caught.value)


def test_dropout_is_one_number():
    with pytest.raises(ConfigError, match="wrong type"):
        TrainConfig.from_mapping({"dropout": [0.05, 0.1]})


def test_trackers_are_named_once():
    assert TrainConfig(report_to=" wandb, tensorboard,wandb").trackers == ("wandb", "tensorboard")
    assert TrainConfig(report_to="none").trackers == TrainConfig(report_to="").trackers == ()


def test_settings_at_their_defaults_are_not_in_what_decides():
    assert not LATER & TrainConfig().decisive().keys()
    assert TrainConfig(max_steps=3).decisive() == TrainConfig().decisive() | {"max_steps": 3}


@pytest.mark.parametrize("name", SAME)
def test_what_changes_nothing_learned_does_not_decide(name):
    other = {"report_to": "wandb", "packing": True, "gradient_checkpointing": True}.get(name, 7)
    assert TrainConfig(**{name: other}).decisive() == TrainConfig().decisive()


@pytest.mark.case("no row that is scored decides a training")
def test_a_loss_while_training_is_of_validation_rows_alone():
    with pytest.raises(ConfigError, match="no validation rows") as caught:
        Recipe().override({"train.eval_steps": 10})
    assert "set select: validation" in str(caught.value)
    assert Recipe().override({"train.eval_steps": 10, "select": "validation"}).train.eval_steps == 10
