"""AdaLoRA under training: the schedule, the budget, what an interruption keeps, and that nothing passes unallocated."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import DEFAULT, lora_layers
from farss.adapters.provenance import remember
from farss.adapters.trained import trained_updates
from farss.adapters.triplets import remaining
from farss.adapters.update import scaled_update
from farss.config import FarssConfig
from farss.errors import AdapterError, ConfigError, StorageError
from farss.methods import Evidence, get_method
from farss.methods.adalora.aid import RankBudget
from farss.methods.adalora.settings import AdaloraConfig
from farss.model.sources import fingerprint
from farss.model.targets import find_targets
from farss.training.sft import train

from .conftest import added_loss, largest_difference, weights

CLOSE = 1e-4
MODULES, INITIAL, FINAL = 21, 6, 4


def adapted(model, dropout: float = 0.0, **settings):
    config = FarssConfig(rank=FINAL, scale="alpha_over_r", alpha=12.0, own=(AdaloraConfig(**settings),))
    plan = get_method("adalora").plan(find_targets(model), Evidence(fingerprint(model)), config)
    return apply(model, plan, dropout=dropout)


def kept_its_budget(report) -> bool:
    return report.account["rank_realised"] == report.account["rank_budget"]


@pytest.fixture
def trained(tiny_llama, tiny_tokenizer, rows, settings):
    model = adapted(copy.deepcopy(tiny_llama), dropout=0.1)
    return model, train(model, tiny_tokenizer, rows, settings(epochs=3.0), None)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 44).reshape(2, 20)).logits


def test_the_budget_is_kept_and_reported(trained):
    model, report = trained
    ranks = remaining(model)
    assert report.account == {"rank_budget": MODULES * FINAL, "rank_realised": sum(ranks.values())}
    assert kept_its_budget(report) and len(set(ranks.values())) > 1


def test_training_lowers_the_loss_and_leaves_the_base(tiny_llama, trained):
    model, report = trained
    first, last = (sum(loss for _, loss in part) for part in (report.curve[:4], report.curve[-4:]))
    assert last < first
    kept = dict(copy.deepcopy(model).unload().named_parameters())
    assert all(torch.equal(kept[name], weight) for name, weight in tiny_llama.named_parameters())


def test_importances_and_cuts_are_those_of_the_definition(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch):
    """The published formulas, written out beside PEFT's allocator, choose the same triplets."""
    model = adapted(copy.deepcopy(tiny_llama), interval=3)
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    whole = RankBudget.on_optimizer_step

    def watch(self, args, state, control, **kwargs):
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                smooth, spread = seen.setdefault(name, [torch.zeros_like(parameter), torch.zeros_like(parameter)])
                if state.global_step + 1 < steps - final:
                    now = (parameter * parameter.grad).abs().detach()
                    smooth.mul_(0.85).add_(0.15 * now)
                    spread.mul_(0.85).add_(0.15 * (now - smooth).abs())
        whole(self, args, state, control, **kwargs)

    monkeypatch.setattr(RankBudget, "on_optimizer_step", watch)
    steps, final = 12, int(0.3 * 12)
    train(model, tiny_tokenizer, rows, settings(epochs=3.0), None)
    scores = {}
    for name in lora_layers(model):
        a, b, e = (
            (lambda pair: pair[0] * pair[1])(seen[f"base_model.model.{name}.lora_{part}.{DEFAULT}"]) for part in "ABE"
        )
        scores[name] = e[:, 0] + a.mean(1) + b.mean(0)
    least = torch.cat(list(scores.values())).sort(descending=True).values[MODULES * FINAL - 1]
    for name, layer in lora_layers(model).items():
        assert torch.equal(layer.lora_E[DEFAULT].detach()[:, 0] != 0, scores[name] >= least)


def test_the_schedule_follows_the_number_of_steps(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch):
    budgets = []
    model = adapted(copy.deepcopy(tiny_llama), initial_share=0.25, final_share=0.25)
    whole = RankBudget.on_optimizer_step

    def watch(self, args, state, control, **kwargs):
        whole(self, args, state, control, **kwargs)
        budgets.append(self.realised)

    monkeypatch.setattr(RankBudget, "on_optimizer_step", watch)
    train(model, tiny_tokenizer, rows, settings(epochs=3.0), None)
    full, least = MODULES * INITIAL, MODULES * FINAL
    cubic = [int(least + (full - least) * (1 - (step - 3) / 6) ** 3) for step in range(4, 10)]
    # The first step of a warm-up has a learning rate of zero, and leaves every e at zero.
    assert budgets[1:] == [full] * 2 + cubic + [least] * 3


def test_an_interrupted_training_goes_on_as_it_was(tiny_llama, tiny_tokenizer, rows, settings, tmp_path):
    whole = adapted(copy.deepcopy(tiny_llama))
    train(whole, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), tmp_path / "whole")
    for stopped_at in (5, 11):  # while ranks are cut, and after the last cut

        def stop(step: int, total: int, loss: float, stopped_at: int = stopped_at) -> None:
            if step == stopped_at:
                raise KeyboardInterrupt

        folder = tmp_path / str(stopped_at)
        with pytest.raises(KeyboardInterrupt):
            first = adapted(copy.deepcopy(tiny_llama))
            train(first, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), folder, progress=stop)
        again = adapted(copy.deepcopy(tiny_llama))
        report = train(again, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), folder)
        assert largest_difference(weights(again, trainable=True), weights(whole, trainable=True)) == 0.0
        assert kept_its_budget(report)
    finished = adapted(copy.deepcopy(tiny_llama))
    train(finished, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), tmp_path / "whole")
    assert largest_difference(weights(finished, trainable=True), weights(whole, trainable=True)) == 0.0


def test_a_checkpoint_without_the_allocator_is_refused(tiny_llama, tiny_tokenizer, rows, settings, tmp_path):
    def stop(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model = adapted(copy.deepcopy(tiny_llama))
        train(model, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), tmp_path, progress=stop)
    (found,) = tmp_path.glob("checkpoint-*/rank_budget.safetensors")
    found.unlink()
    with pytest.raises(StorageError):
        again = adapted(copy.deepcopy(tiny_llama))
        train(again, tiny_tokenizer, rows, settings(epochs=3.0, save_steps=2), tmp_path)


def test_a_training_that_never_calls_the_allocator_fails(tiny_llama, tiny_tokenizer, rows, settings, monkeypatch):
    monkeypatch.setattr(RankBudget, "on_optimizer_step", lambda *args, **kwargs: None)
    with pytest.raises(AdapterError, match="not called at every step"):
        train(adapted(tiny_llama), tiny_tokenizer, rows, settings(), None)


def test_a_training_too_short_to_cut_ranks_is_refused(tiny_llama, tiny_tokenizer, rows, settings):
    with pytest.raises(ConfigError, match="too short"):
        train(adapted(tiny_llama), tiny_tokenizer, rows[:4], settings(epochs=1.0), None)


def test_an_adapter_whose_plan_is_not_known_is_refused(tiny_llama, tiny_tokenizer, rows, settings):
    model = adapted(tiny_llama)
    remember(model, None)
    with pytest.raises(AdapterError, match="nothing says"):
        train(model, tiny_tokenizer, rows, settings(), None)


def test_the_regulariser_is_pefts(tiny_llama):
    model = adapted(tiny_llama).train()
    ids = torch.arange(4, 44).reshape(2, 20)
    task = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    theirs = float((model(input_ids=ids, labels=ids).loss - task).detach())
    assert float(added_loss(model).detach()) == pytest.approx(theirs, rel=1e-4)


def test_every_form_says_the_same(tiny_llama, trained, tmp_path):
    model, _ = trained
    expected, ranks = logits(model), remaining(model)
    assert float((expected - logits(tiny_llama)).abs().max()) > 1e-2
    save_adapter(model, tmp_path / "adapter")
    for trainable in (True, False):
        loaded = load_adapter(copy.deepcopy(tiny_llama), tmp_path / "adapter", trainable=trainable)
        assert torch.equal(logits(loaded), expected) and remaining(loaded) == ranks
        assert any(p.requires_grad for p in loaded.parameters()) == trainable
    for form in ("peft", "portable"):
        report = export(model, tmp_path / form, to=form)
        assert report.rank == max(ranks.values()) and report.max_logit_difference < CLOSE
        stock = PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path / form)
        torch.testing.assert_close(logits(stock), expected, atol=CLOSE, rtol=0)
        if form == "peft":
            kept = {name: layer.r[DEFAULT] for name, layer in lora_layers(stock).items()}
            assert kept == {name: rank for name, rank in ranks.items() if rank}
    export(model, tmp_path / "merged", to="merged")
    merged = type(tiny_llama).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, atol=CLOSE, rtol=0)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=CLOSE, rtol=0)


def test_modules_that_lose_all_their_ranks_are_left_out(tiny_llama, trained, tmp_path):
    model, _ = trained
    layers = lora_layers(model)
    empty = list(layers)[:3]
    for name in empty:
        layers[name].lora_E[DEFAULT].data.zero_()
    assert set(trained_updates(model)) == set(layers) - set(empty)
    export(model, tmp_path / "out")
    for layer in layers.values():
        layer.lora_E[DEFAULT].data.zero_()
    with pytest.raises(AdapterError, match="other than zero"):
        export(model, tmp_path / "none")


def test_a_loaded_adapter_can_be_trained_on(tiny_llama, tiny_tokenizer, rows, settings, trained, tmp_path):
    save_adapter(trained[0], tmp_path / "adapter")
    loaded = load_adapter(copy.deepcopy(tiny_llama), tmp_path / "adapter", dropout=0.0)
    report = train(loaded, tiny_tokenizer, rows, settings(epochs=3.0), None)
    assert kept_its_budget(report)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.5, 1.25])
def test_the_frontier_scales_what_was_learned(tiny_llama, trained, tmp_path, t):
    model, _ = trained
    export(model, tmp_path / "out")
    stock = PeftModel.from_pretrained(copy.deepcopy(tiny_llama), tmp_path / "out")
    with scaled_update(model, t), scaled_update(stock, t):
        torch.testing.assert_close(logits(model), logits(stock), atol=CLOSE, rtol=0)
        if t == 0:
            torch.testing.assert_close(logits(model), logits(tiny_llama), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_start_as_the_base_and_learn_in_the_adapters_own(
    tiny_llama, tiny_tokenizer, rows, settings, dtype
):
    model = tiny_llama.to(dtype)
    before = logits(model)
    wrapped = adapted(model, dropout=0.1)
    assert torch.equal(logits(wrapped), before)
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {wide}
    report = train(wrapped, tiny_tokenizer, rows, settings(epochs=3.0), None)
    assert kept_its_budget(report)
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {wide}
