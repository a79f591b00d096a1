"""A run that goes on on another day reads the prompts it began with."""

from __future__ import annotations

import datetime
import json
import shutil

import pytest
import yaml

from farss.experiment import dating

TEMPLATE = (
    "{{ strftime_now('%d %b') }}\n{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def on(monkeypatch, text):
    class Day(datetime.date):
        @classmethod
        def today(cls):
            return cls.fromisoformat(text)

    monkeypatch.setattr(dating, "date", Day)


def date_of(folder):
    return yaml.safe_load((folder / "recipe.yaml").read_text())["data"]["date"]


@pytest.mark.case("a template that writes the date changes the prompts of a run overnight")
def test_training_and_measuring_keep_to_the_day_of_the_start(farss, workshop, tmp_path, monkeypatch):
    shutil.copytree(workshop.model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    recipe = workshop.recipe("dated", **{"model.name": str(tmp_path / "model"), "train.save_steps": 1})
    on(monkeypatch, "2024-07-01")
    assert farss("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "init")[0] == 0
    on(monkeypatch, "2024-07-02")
    code, _, err = farss("train", "--init", tmp_path / "init", "--recipe", recipe, "--out", tmp_path / "trained")
    assert code == 0, err
    assert date_of(tmp_path / "init") == date_of(tmp_path / "trained") == "2024-07-01"
    identity = json.loads((tmp_path / "trained" / "checkpoints" / "training.json").read_text())
    shutil.rmtree(tmp_path / "trained" / "adapter")
    on(monkeypatch, "2024-07-03")
    assert farss("train", "--init", tmp_path / "init", "--recipe", recipe, "--out", tmp_path / "trained")[0] == 0
    assert json.loads((tmp_path / "trained" / "checkpoints" / "training.json").read_text()) == identity
    other = ("--set", "data.date=2024-07-03", "--out", tmp_path / "trained", "--fresh")
    code, _, err = farss("train", "--init", tmp_path / "init", *other)
    assert code == 2 and "another date" in err


def test_a_template_without_a_date_records_none(farss, initialised):
    assert date_of(initialised) is None
