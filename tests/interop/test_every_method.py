"""What every method promises: where it starts, that a step learns, and that every form of it is one function."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter, save_adapter
from farss.config import FarssConfig, TrainConfig
from farss.experiment.initialisation.planning import prepare
from farss.methods import METHODS
from farss.model.calibration import Example, batches
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets, weight_matrix
from farss.training.sft import train
from farss.training.tasks import LanguageModelling

ADAPTERS = [name for name in METHODS if name != "full"]
RANK = 4
AT_THE_BASE, ONE_FUNCTION = 1e-5, 1e-4


def examples(count: int = 6) -> list[Example]:
    generator = torch.Generator().manual_seed(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 90, (length,), generator=generator).tolist())

    return [Example(ids(5 + i), ids(6)) for i in range(count)]


def queue(rows: list[Example]):
    return batches(rows, batch_tokens=200, pad_id=0)


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(4, 52).reshape(2, 24)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def loss(model: torch.nn.Module, rows: list[Example]) -> float:
    """Summed over the response tokens of all rows."""
    task = LanguageModelling()
    with torch.no_grad():
        return float(task.loss_of(model)(model.eval(), task.collator(0)(rows)))


def without_the_smallest(model: torch.nn.Module, count: int) -> torch.nn.Module:
    """`model` with the `count` smallest components of every adapted weight taken out, by LAPACK."""
    model = copy.deepcopy(model)
    for target in find_targets(model):
        left, sigma, right = torch.linalg.svd(weight_matrix(target).detach().double(), full_matrices=False)
        kept = (left[:, :-count] * sigma[:-count] @ right[:-count]).float()
        target.module.weight.data.copy_(kept.T if target.transposed else kept)
    return model


@pytest.fixture(params=["tiny_gqa", "tiny_gpt2"])
def base(request):
    """A model with grouped queries and tied embeddings; one whose weights are stored transposed."""
    return request.getfixturevalue(request.param).eval()


@pytest.mark.parametrize("method", ADAPTERS)
def test_it_starts_where_it_says_learns_and_is_one_function_everywhere(base, method, tiny_tokenizer, tmp_path):
    original, rows = copy.deepcopy(base), examples()
    config = FarssConfig(rank=RANK, r_min=1, r_avg=2, r_max=3, shallow_layers=1)
    cache = SpectrumCache(tmp_path / "spectra")
    plan = prepare(base, queue(rows), config, [method], spectra=cache, knowledge=queue(examples(9))).plans[method]
    model = apply(base, plan, lambda target: cache.get(target, "gram"))
    expected = logits(without_the_smallest(original, RANK) if method == "kasa" else original)
    torch.testing.assert_close(logits(model), expected, atol=AT_THE_BASE, rtol=0)

    before = loss(model, rows)
    # Fewer steps leave AdaLoRA nothing to cut, and its gates open between factors of N(0, 0.02^2).
    rate, steps = (5e-2, 4) if method == "adalora" else (1e-3, 1)
    settings = TrainConfig(
        learning_rate=rate,
        epochs=float(steps),
        batch_size=len(rows),
        warmup_ratio=0.0,
        dropout=0.0,
        precision="float32",
    )
    assert train(model, tiny_tokenizer, rows, settings, None).steps == steps
    assert loss(model, rows) < before

    trained = logits(model)
    assert float((trained - expected).abs().max()) > 10 * ONE_FUNCTION
    save_adapter(model, tmp_path / "adapter")
    assert torch.equal(logits(load_adapter(copy.deepcopy(original), tmp_path / "adapter")), trained)
    export(model, tmp_path / "peft", to="peft")
    stock = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "peft")
    torch.testing.assert_close(logits(stock), trained, atol=ONE_FUNCTION, rtol=0)
    export(model, tmp_path / "merged", to="merged")
    merged = type(original).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), trained, atol=ONE_FUNCTION, rtol=0)
    unloaded = dict(model.unload().named_parameters())
    assert all(torch.equal(unloaded[name], weight) for name, weight in original.named_parameters())


def test_full_fine_tuning_starts_at_the_base_and_learns(base, tiny_tokenizer, tmp_path):
    rows, before = examples(), loss(base, examples())
    settings = TrainConfig(learning_rate=1e-3, epochs=1.0, batch_size=len(rows), warmup_ratio=0.0, precision="float32")
    train(base, tiny_tokenizer, rows, settings, None, trains="weights")
    assert loss(base, rows) < before
    base.save_pretrained(tmp_path)
    assert torch.equal(logits(type(base).from_pretrained(tmp_path)), logits(base))
