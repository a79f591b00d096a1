"""`compat="published-code"` against a literal re-derivation of what the published code computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from farss.config import FarssConfig
from farss.maths.spectrum import decompose
from farss.methods import Evidence, get_method, published_batches, published_code_config
from farss.methods.compat import published_importance
from farss.model.calibration import Example
from farss.model.targets import find_targets, weight_matrix
from farss.statistics.curvature import collect

HIDDEN, INNER, VOCABULARY, MAX_LENGTH = 160, 192, 64, 40
PUBLISHED = FarssConfig(compat="published-code", rank=128, shallow_layers=1, r_min=1, r_avg=50, r_max=64)
CASES = {
    "deep rank 128 takes the highest": PUBLISHED,
    "rank 32 takes the lowest everywhere and caps the shallow ranks": dataclasses.replace(PUBLISHED, rank=32),
    "shallow ranks from 128 on take the highest": dataclasses.replace(PUBLISHED, rank=150, r_avg=130, r_max=140),
    "unset split means one layer": dataclasses.replace(PUBLISHED, shallow_layers=None),
}


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.fixture(scope="module")
def examples():
    generator = torch.Generator().manual_seed(1)

    def ids(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    return [Example(ids(4, 20), ids(3, 16)) for _ in range(24)]


@pytest.fixture(scope="module")
def plans(model, examples):
    """Our pipeline: convert the settings, collect, plan."""
    targets = find_targets(model)
    settings = published_code_config(PUBLISHED)
    curvature = collect(
        model,
        published_batches(examples, pad_id=0, max_length=MAX_LENGTH),
        targets,
        tokens=settings.tokens,
        loss_norm=settings.loss_norm,
        fisher=settings.fisher,
        max_batches=settings.max_batches,
    )
    evidence = Evidence("model", lambda target: decompose(weight_matrix(target)), {"curvature": curvature})
    return {case: get_method("farss").plan(targets, evidence, config) for case, config in CASES.items()}


def literal_covariances(model, examples):
    """Full covariance matrices of inputs and output gradients, padding counted, gradients of the batch-mean loss."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers." in n}
    sums = {name: [0.0, 0.0, 0] for name in linears}
    inputs = {}

    def forward_hook(name):
        def hook(module, args, output):
            inputs[name] = args[0].detach().reshape(-1, args[0].shape[-1]).double()

        return hook

    def backward_hook(name):
        def hook(module, grad_input, grad_output):
            rows = grad_output[0].detach().reshape(-1, grad_output[0].shape[-1]).double()
            sums[name][0] = sums[name][0] + inputs[name].T @ inputs[name]
            sums[name][1] = sums[name][1] + rows.T @ rows
            sums[name][2] += len(rows)

        return hook

    handles = [m.register_forward_hook(forward_hook(n)) for n, m in linears.items()]
    handles += [m.register_full_backward_hook(backward_hook(n)) for n, m in linears.items()]
    model.train()  # no dropout in this model
    for start in range(0, 16, 2):
        ids = torch.zeros(2, MAX_LENGTH, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, example in enumerate(examples[start : start + 2]):
            prompt, whole = len(example.prompt_ids), example.prompt_ids + example.response_ids
            ids[row, : len(whole)] = torch.tensor(whole)
            labels[row, prompt : len(whole)] = torch.tensor(example.response_ids)
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        loss = functional.cross_entropy(
            logits[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1), ignore_index=-100
        )
        model.zero_grad()
        loss.backward()
    model.zero_grad()
    for handle in handles:
        handle.remove()
    return {n: (m.weight.detach().double(), *[s / sums[n][2] for s in sums[n][:2]]) for n, m in linears.items()}


def literal_ranks(covariances, config):
    last = 0 if config.shallow_layers is None else config.shallow_layers
    shallow = [name for name in covariances if int(name.split("layers.")[1].split(".")[0]) <= last]
    importance = {}
    for name in shallow:
        weight, s_h, s_delta = covariances[name]
        importance[name] = float(torch.trace(s_delta @ weight @ s_h @ weight.T)) / weight.numel()
    total = sum(importance.values())
    assert total > 1e-12, "the absolute fall-back must not hide the comparison"
    omega = {name: 1 / (value / total + 1e-12) for name, value in importance.items()}
    r_max = min(config.r_max, config.rank)
    r_avg = min(config.r_avg, r_max)
    ranks = dict.fromkeys(covariances, config.rank)
    for name in shallow:
        raw = r_avg * len(shallow) * omega[name] / sum(omega.values())
        ranks[name] = max(config.r_min, min(r_max, round(raw)))
    return ranks


def literal_directions(weight, s_h, s_delta, rank):
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    scores = S**2 * torch.diagonal(Vh @ s_h @ Vh.T) * torch.diagonal(U.T @ s_delta @ U)
    order = torch.argsort(scores, descending=rank >= 128)
    return tuple(sorted(order[:rank].tolist()))


@pytest.fixture(scope="module")
def covariances(model, examples):
    return literal_covariances(model, examples)


@pytest.mark.parametrize("case", CASES)
def test_ranks_and_directions_are_those_of_the_published_code(plans, covariances, case):
    config, plan = CASES[case], plans[case]
    ranks = literal_ranks(covariances, config)
    assert {t.name: t.rank for t in plan.targets} == ranks
    different = {t.name for t in plan.targets if t.indices != literal_directions(*covariances[t.name], t.rank)}
    assert not different


def test_cases_reach_both_branches_and_several_ranks(plans):
    ranks = [t.rank for plan in plans.values() for t in plan.targets]
    assert min(ranks) < 128 <= max(ranks)
    assert any(t.region == "shallow" and t.rank >= 128 for plan in plans.values() for t in plan.targets)
    first = plans["deep rank 128 takes the highest"]
    assert len({t.rank for t in first.targets if t.region == "shallow"}) > 2
    assert {t.layer for t in first.targets if t.region == "shallow"} == {0, 1}


def test_scale_and_form_are_those_of_the_published_code(plans):
    plan = plans["deep rank 128 takes the highest"]
    assert plan.base == "residual" and plan.factor_scaling == "published"
    assert all(t.scale == 128 / t.rank for t in plan.targets)


def test_padding_and_loss_scaling_matter_here(model, examples, covariances):
    """A control that must fail: our own statistics do not give the published ones."""
    targets = find_targets(model)
    ours = collect(model, published_batches(examples, pad_id=0, max_length=MAX_LENGTH), targets)
    target = next(t for t in targets if t.kind == "q_proj")
    weight, s_h, _ = covariances[target.name]
    first, _ = ours.pair(target.name, weight)
    assert (first - s_h).norm() > 0.05 * s_h.norm()


def test_conversion_is_idempotent_and_leaves_other_settings_alone():
    once = published_code_config(PUBLISHED)
    assert published_code_config(once) == once != PUBLISHED
    assert published_code_config(FarssConfig()) == FarssConfig()
    assert (once.rank, once.shallow_layers, once.r_min) == (128, 1, 1)


def test_caps_of_the_published_code():
    small = published_code_config(dataclasses.replace(PUBLISHED, rank=24))
    assert (small.r_max, small.r_avg) == (24, 24)


def test_absolute_fall_back_to_equal_importances():
    assert published_importance([4e-13, 5e-13]) == [1.0, 1.0]
    assert published_importance([4e-12, 5e-12]) == [4e-12, 5e-12]


def test_first_sixteen_rows_two_at_a_time_in_order(examples):
    made = published_batches(examples, pad_id=0, max_length=MAX_LENGTH)
    assert [tuple(batch.input_ids.shape) for batch in made] == [(2, MAX_LENGTH)] * 8
    assert tuple(made[0].input_ids[1, : len(examples[1])].tolist()) == examples[1].prompt_ids + examples[1].response_ids
