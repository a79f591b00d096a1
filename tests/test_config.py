"""The recipe tree refuses what it does not know and writes back what it read."""

from __future__ import annotations

import jsonschema
import pytest

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError


def test_round_trip_through_yaml(tmp_path):
    recipe = Recipe().override({"train.learning_rate": 1e-3, "methods": ["lora"], "init.shallow_layers": 3})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe


def test_unknown_key_names_the_nearest(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train:\n  learning_rat: 1e-3\n")
    with pytest.raises(ConfigError, match=r"learning_rat`(.|\n)*did you mean `learning_rate`"):
        Recipe.from_yaml(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train.batch_size", "eight", "wrong type"),
        ("train.batch_size", True, "wrong type"),
        ("init.budget", "redistribut", "redistribute"),
        ("methods", "lora", "a list is needed"),
        ("init.r_min", 60, "1 <= r_min <= r_avg <= r_max"),
        ("init.rank", 0, "at least 1"),
        ("train.learning_rate", -1.0, "positive"),
        ("eval.task_rows", 0, "at least one held-out row"),
        ("nonsense", 1, "unknown key"),
        ("train.nonsense", 1, "unknown key"),
        ("name.deeper", 1, "no parts"),
    ],
)
def test_bad_values_are_refused(key, value, said):
    with pytest.raises(ConfigError, match=said):
        Recipe().override({key: value})


def test_yaml_exponent_without_a_point_is_a_number():
    assert Recipe.from_mapping({"train": {"learning_rate": "2e-5"}}).train.learning_rate == 2e-5


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Recipe.from_yaml(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Recipe.from_yaml(broken)


def test_schema_accepts_the_defaults_and_refuses_unknown_keys():
    schema = Recipe.schema()
    jsonschema.validate(Recipe().to_mapping(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"nonsense": 1}, schema)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        FarssConfig().rank = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mapping_of_free_names_is_typed():
    recipe = Recipe().override({"method_learning_rates.lora": ["2e-4", 1]})
    assert recipe.method_learning_rates == {"lora": (2e-4, 1.0)}
    assert Recipe.from_mapping(recipe.to_mapping()) == recipe
    jsonschema.validate(recipe.to_mapping(), Recipe.schema())
    for wrong in ([1e-4], {"lora": 1e-4}, {"lora": ["fast"]}, {3: [1e-4]}):
        with pytest.raises(ConfigError, match="method_learning_rates"):
            Recipe().override({"method_learning_rates": wrong})


def test_a_budget_that_nothing_would_read_is_refused():
    with pytest.raises(ConfigError, match="match: params"):
        Recipe(budget_params=1000)
    assert Recipe(budget_params=1000, match="params").budget_params == 1000
