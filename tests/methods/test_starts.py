"""Factors of every method that makes its own, on hand-made modules: what they are by definition, and what PEFT has."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from farss.adapters.apply import apply
from farss.adapters.layers import lora_layers
from farss.config import FarssConfig
from farss.errors import DataError, NumericalError
from farss.maths.contexts import damped, unit_trace
from farss.maths.spectrum import decompose
from farss.methods import Evidence, get_method
from farss.methods.base import RankCapWarning
from farss.methods.factored import FactorMethod
from farss.methods.start_settings import StartConfig
from farss.model.plan import Plan
from farss.model.start import Factors
from farss.model.targets import Target, find_targets, weight_matrix
from farss.statistics.gradients import Gradients
from farss.statistics.inputs import InputMoments
from farss.statistics.moments import SymmetricSum

SHAPES = {"square": (20, 20), "tall": (28, 20), "wide": (20, 28)}
CONFIG = FarssConfig(rank=5)
SAMPLES = 12  # fewer than inputs: every second moment has a null space


class Modules(nn.Module):
    """One linear of each shape in one block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.ModuleDict({k: nn.Linear(n, m) for k, (m, n) in SHAPES.items()})])


@pytest.fixture
def model() -> Modules:
    return Modules()


@pytest.fixture
def targets(model) -> list[Target]:
    return find_targets(model)


@pytest.fixture
def rows(targets) -> dict[str, torch.Tensor]:
    """Inputs [t, n] of every module, of uneven size along the axes."""
    generator = torch.Generator().manual_seed(3)
    return {
        t.name: torch.randn(SAMPLES, t.shape[1], generator=generator).double() * torch.linspace(0.1, 2, t.shape[1])
        for t in targets
    }


@pytest.fixture
def evidence(targets, rows) -> Evidence:
    sums = {}
    for name, x in rows.items():
        for kind, scaled in (("h", x), ("scaled", x / x.max().abs())):
            sums[f"{kind}/{name}"] = SymmetricSum(x.shape[1], torch.float64)
            sums[f"{kind}/{name}"].add(scaled)
    shapes = {t.name: t.shape for t in targets}
    moments = InputMoments(sums, {name: name for name in shapes}, shapes, tokens=SAMPLES, sequences=1)
    generator = torch.Generator().manual_seed(4)
    gradients = {name: torch.randn(*shape, generator=generator).double() for name, shape in shapes.items()}
    return Evidence(
        "abc",
        lambda target: decompose(weight_matrix(target)),
        {
            "input_covariance": moments,
            "knowledge_covariance": moments,
            "gradient": Gradients(gradients, supervised=3),
        },
    )


def plan(name: str, targets, evidence, **changes) -> Plan:
    return get_method(name).plan(targets, evidence, dataclasses.replace(CONFIG, **changes))


def product(part: Factors) -> torch.Tensor:
    return part.up.double() @ part.down.double()


OWN = ["pissa-niter", "olora", "corda-kpm", "corda-ipm", "lora-null", "eva", "lora-ga"]
DIVIDED = ["pissa-niter", "corda-kpm", "corda-ipm", "lora-null"]


@pytest.mark.parametrize("name", [*OWN, "lora-null-v2"])
def test_factors_have_the_planned_ranks_and_the_dtype_of_adapters(targets, evidence, name):
    made = plan(name, targets, evidence)
    assert isinstance(get_method(name), FactorMethod) and made.initialisation == "factors"
    for row in made.targets:
        part = made.start[row.name]
        assert part.up.shape == (row.shape[0], row.rank) and part.down.shape == (row.rank, row.shape[1])
        assert part.up.dtype == part.down.dtype == torch.float32


@pytest.mark.parametrize("name", DIVIDED)
@pytest.mark.parametrize("scale", ["alpha_over_r", "rslora"])
def test_what_is_subtracted_does_not_depend_on_the_scale(targets, evidence, name, scale):
    unit, scaled = (plan(name, targets, evidence, scale=each, alpha=17.0) for each in ("unit", scale))
    for row in scaled.targets:
        part = row.scale * product(scaled.start[row.name])
        torch.testing.assert_close(part, product(unit.start[row.name]), rtol=0, atol=1e-6)
        assert row.scale != 1


@pytest.mark.parametrize("name", ["pissa-niter", "olora", "corda-kpm", "corda-ipm"])
def test_at_full_rank_the_product_is_the_weight(targets, evidence, name):
    made = plan(name, targets, evidence, rank=20)
    for target in targets:
        torch.testing.assert_close(product(made.start[target.name]), weight_matrix(target).double(), rtol=0, atol=1e-5)


def open_gap_(targets) -> None:
    """Lift the five largest singular values above the others, so that the leading space is one."""
    with torch.no_grad():
        for target in targets:
            left, sigma, right = torch.linalg.svd(target.module.weight, full_matrices=False)
            target.module.weight.copy_(left * sigma * torch.where(torch.arange(20) < 5, 4.0, 1.0) @ right)


def test_randomised_pissa_is_pissa_where_it_has_converged(targets, evidence):
    open_gap_(targets)
    made = plan("pissa-niter", targets, evidence)
    for target in targets:
        left, sigma, right = torch.linalg.svd(weight_matrix(target).double(), full_matrices=False)
        best = left[:, :5] * sigma[:5] @ right[:5]
        torch.testing.assert_close(product(made.start[target.name]), best, rtol=0, atol=1e-5)


def test_olora_is_orthonormal_times_triangular(targets, evidence):
    made = plan("olora", targets, evidence, scale="alpha_over_r")
    for target in targets:
        part = made.start[target.name]
        torch.testing.assert_close(part.up.T @ part.up, torch.eye(5), rtol=0, atol=1e-5)
        assert torch.equal(part.down[:, :5].tril(-1), torch.zeros(5, 5)) and bool((part.down.diagonal() > 0).all())
        rest = weight_matrix(target) - part.up @ part.down
        assert float((part.up.T @ rest).abs().max()) < 1e-5  # what is left does not reach B's columns


@pytest.mark.parametrize(("name", "end"), [("corda-kpm", slice(-5, None)), ("corda-ipm", slice(0, 5))])
@pytest.mark.parametrize("scale", ["trace", "signed_maximum"])
def test_corda_is_its_definition(targets, evidence, rows, name, end, scale):
    start = (StartConfig(covariance_scale=scale),)
    made = plan(name, targets, evidence, own=start)
    for target in targets:
        x = rows[target.name]
        x = x if scale == "trace" else x / x.max().abs()
        moment = unit_trace(x.T @ x) if scale == "trace" else x.T @ x
        whole = moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment))
        left, sigma, right = torch.linalg.svd(weight_matrix(target).double() @ whole, full_matrices=False)
        part = left[:, end] * sigma[end] @ right[end] @ torch.linalg.inv(whole)
        torch.testing.assert_close(product(made.start[target.name]), part, rtol=0, atol=1e-5)
        norm = made.start[target.name].up.norm(dim=0).double()
        torch.testing.assert_close(norm, sigma[end].sqrt(), rtol=1e-5, atol=0)


def test_corda_halves_are_the_weight(targets, evidence):
    low, high = (plan(name, targets, evidence, rank=10) for name in ("corda-kpm", "corda-ipm"))
    for target in targets:
        both = product(low.start[target.name]) + product(high.start[target.name])
        torch.testing.assert_close(both, weight_matrix(target).double(), rtol=0, atol=1e-5)


def test_knowledge_and_task_are_not_mixed_up(targets, evidence, rows):
    other = dataclasses.replace(
        evidence.of("input_covariance"), sums={k: s for k, s in evidence.of("input_covariance").sums.items()}
    )
    for name, x in rows.items():
        other.sums[f"h/{name}"] = SymmetricSum(x.shape[1], torch.float64)
        other.sums[f"h/{name}"].add(x.flip(1))
    swapped = Evidence("abc", evidence.spectra, {**evidence.statistics, "knowledge_covariance": other})
    assert plan("corda-ipm", targets, swapped).factors_digest == plan("corda-ipm", targets, evidence).factors_digest
    for name in ("corda-kpm", "lora-null"):
        assert plan(name, targets, swapped).factors_digest != plan(name, targets, evidence).factors_digest


def test_unscaled_moments_are_not_taken_for_scaled_ones(targets, evidence):
    both = evidence.of("input_covariance")
    plain = dataclasses.replace(both, sums={k: s for k, s in both.sums.items() if k.startswith("h/")})
    start = (StartConfig(covariance_scale="signed_maximum"),)
    with pytest.raises(DataError, match="sample by sample"):
        plan("corda-ipm", targets, Evidence("abc", None, {"input_covariance": plain}), own=start)


def test_lora_null_hardly_sees_the_samples(targets, evidence, rows):
    made = plan("lora-null", targets, evidence)
    for target in targets:
        part = product(made.start[target.name])
        seen = (rows[target.name] @ part.T).norm() / rows[target.name].norm()
        unseen = (torch.randn(SAMPLES, target.shape[1]).double() @ part.T).norm() / (SAMPLES * target.shape[1]) ** 0.5
        assert float(seen) < 1e-6 and float(unseen) > 1e-2


def test_eva_rows_are_the_top_right_singular_vectors_of_the_inputs(targets, evidence, rows):
    made = plan("eva", targets, evidence)
    for row in made.targets:
        part = made.start[row.name]
        right = torch.linalg.svd(rows[row.name], full_matrices=False).Vh[: row.rank]
        cosines = (part.down.double() * right).sum(1).abs()
        torch.testing.assert_close(cosines, torch.ones(row.rank).double(), rtol=0, atol=1e-5)
        assert not part.up.any()


def test_eva_gives_ranks_to_the_directions_that_explain_most(targets, evidence, rows):
    with torch.no_grad():
        loud = rows[targets[0].name]
        loud[:] = loud[:, :1] * torch.ones(20)  # one direction explains everything
    evidence.of("input_covariance").sums[f"h/{targets[0].name}"] = SymmetricSum(20, torch.float64)
    evidence.of("input_covariance").sums[f"h/{targets[0].name}"].add(loud)
    ranks = [row.rank for row in plan("eva", targets, evidence).targets]
    assert sum(ranks) == 3 * 5 and ranks[0] == 1 and max(ranks) <= 10
    equal = (StartConfig(rank_ratio=1.0),)
    assert [row.rank for row in plan("eva", targets[1:], evidence, own=equal).targets] == [5, 5]
    scales = {row.scale for row in plan("eva", targets, evidence, scale="alpha_over_r", alpha=10.0).targets}
    assert scales == {2.0}


@pytest.mark.parametrize("gamma", [16.0, 4.0])
def test_lora_ga_is_its_definition(targets, evidence, gamma):
    made = plan("lora-ga", targets, evidence, own=(StartConfig(gamma=gamma),))
    for target in targets:
        left, _, right = torch.linalg.svd(evidence.of("gradient").sums[target.name], full_matrices=False)
        size = target.shape[0] ** 0.25 / gamma**0.5
        part = made.start[target.name]
        for got, expected in ((part.up.T, left[:, 5:10].T), (part.down, right[:5])):
            cosines = (got.double() * expected).sum(1).abs() / size
            torch.testing.assert_close(cosines, torch.ones(5).double(), rtol=0, atol=1e-5)
            torch.testing.assert_close(got.double().norm(dim=1), torch.full((5,), size).double(), rtol=1e-5, atol=0)


def test_lora_ga_takes_no_more_than_half_of_the_directions(targets, evidence):
    with pytest.warns(RankCapWarning, match="lora-ga: 3 of 3"):
        assert {row.rank for row in plan("lora-ga", targets, evidence, rank=16).targets} == {10}
    evidence.of("gradient").sums[targets[0].name][:] = 1.0
    with pytest.raises(NumericalError, match="fewer than two directions"):
        plan("lora-ga", targets, evidence)


@pytest.mark.parametrize("alpha", [128.0, 8.0])
def test_rslora_divides_by_the_root_of_the_rank(targets, alpha):
    made = plan("rslora", targets, Evidence("abc"), alpha=alpha)
    assert {row.scale for row in made.targets} == {alpha / 5**0.5}
    assert made.initialisation == "random" and made.settings["scale"] == "rslora"


@pytest.mark.parametrize("name", ["pissa-niter", "olora", "corda-kpm", "lora-null"])
def test_a_rank_deficient_weight_gives_only_directions_that_can_train(targets, evidence, name):
    with torch.no_grad():
        targets[0].module.weight[3:] = 0
    if name == "olora":  # A has rows of zero, B none: such a direction trains
        assert bool(plan(name, targets, evidence).start[targets[0].name].up.norm(dim=0).min() > 0.9)
        return
    with pytest.warns(RankCapWarning):
        assert plan(name, targets, evidence).targets[0].rank == 3


def test_damping_is_what_the_recipe_names(targets, evidence, monkeypatch):
    asked = []

    def watched(moment, rule):
        asked.append(rule)
        return damped(moment, rule)

    monkeypatch.setattr("farss.methods.corda.damped", watched)
    plan("corda-ipm", targets, evidence, own=(StartConfig(damping="fixed"),))
    assert asked == ["fixed"] * 3


@pytest.mark.parametrize("method", ["pissa", "pissa-niter", "olora", "corda-kpm", "corda-ipm"])
@pytest.mark.parametrize("scale", ["unit", "alpha_over_r"])
def test_product_and_residual_are_those_of_peft(model, targets, evidence, tmp_path, method, scale):
    """PEFT decomposes in float32; what it subtracts, and what it leaves of W, must be ours to that accuracy."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    open_gap_(targets)
    weights = [target.name for target in targets]
    made = plan(method, targets, evidence, scale=scale, alpha=20.0, base="residual")
    ours = lora_layers(apply(copy.deepcopy(model), made, fingerprint="abc"))
    config = LoraConfig(
        r=5, lora_alpha=20 if scale == "alpha_over_r" else 5, target_modules=weights,
        init_lora_weights={"pissa-niter": "pissa_niter_16"}.get(method, method.split("-")[0]),
    )  # fmt: skip
    if method.startswith("corda"):
        moments = {name: unit_trace(evidence.of("input_covariance").second_moment(name)).float() for name in weights}
        torch.save(moments, tmp_path / "covariance.pt")
        config.corda_config = CordaConfig(
            corda_method=method.removeprefix("corda-"), covariance_file=str(tmp_path / "covariance.pt")
        )
        preprocess_corda(model, config)
    peft = get_peft_model(model, config).get_base_model()
    for name in weights:
        theirs = peft.get_submodule(name)
        mine = ours[name].scaling["default"] * ours[name].lora_B["default"].factor @ ours[name].lora_A["default"].factor
        other = theirs.scaling["default"] * theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-4)
        torch.testing.assert_close(ours[name].base_layer.weight, theirs.base_layer.weight, rtol=0, atol=2e-4)
