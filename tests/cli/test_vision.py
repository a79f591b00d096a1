"""A checkpoint with images the whole way by the command: what is exported works on the whole model."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from tests.families import saved
from transformers import AutoModelForImageTextToText


def words_of(model) -> torch.Tensor:
    ids = torch.randint(4, 90, (2, 10), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.case("an adapter of a model with images has its effect on the model that is served")
@pytest.mark.parametrize("family", ["Gemma 3 with vision", "Qwen3.5 with vision"])
def test_init_train_and_export_for_the_whole_model(farss, workshop, tiny_tokenizer, tmp_path, family):
    folder = saved(family, tmp_path / "model", tiny_tokenizer)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
    recipe = workshop.recipe("vision", **{"model.name": str(folder), "train.learning_rate": 5e-2})
    with pytest.warns(UserWarning, match="more than a language model"):
        code, _, err = farss("init", "--recipe", recipe, "--method", "farss", "--out", tmp_path / "init")
    assert code == 0, err
    plan = json.loads((tmp_path / "init" / "plan.json").read_text())
    assert plan["coverage"]["language_model"] == "model.language_model"
    assert farss("train", "--init", tmp_path / "init", "--out", tmp_path / "trained")[0] == 0

    base = AutoModelForImageTextToText.from_pretrained(folder)
    before, moved = words_of(base), {}
    for form in ("peft", "portable", "merged"):
        out = tmp_path / form
        code, _, err = farss("export", "--adapter", tmp_path / "trained" / "adapter", "--to", form, "--out", out)
        assert code == 0, err
        whole = AutoModelForImageTextToText.from_pretrained(out if form == "merged" else folder)
        moved[form] = words_of(whole if form == "merged" else PeftModel.from_pretrained(whole, out)) - before
    assert float(moved["peft"].abs().max()) > 1e-3
    torch.testing.assert_close(moved["portable"], moved["peft"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moved["merged"], moved["peft"], rtol=1e-3, atol=1e-4)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    for name, weight in base.named_parameters():
        if "vision" in name or "visual" in name:
            assert torch.equal(weight, merged.get_parameter(name)), name
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()
