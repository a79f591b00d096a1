"""Plans of all methods on small hand-made modules: ranks, directions, scales, and what is refused."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from farss.config import FarssConfig
from farss.errors import ConfigError, NumericalError, PlanError
from farss.maths.ranks import allocate
from farss.maths.spectrum import decompose
from farss.methods import METHODS, Evidence, get_method
from farss.methods.adalora.settings import AdaloraConfig
from farss.methods.base import RankCapWarning
from farss.methods.fora.method import top_layers
from farss.methods.fora.settings import ForaConfig
from farss.methods.kasa.settings import KasaConfig
from farss.methods.statistics import KNOWLEDGE, OWN
from farss.model.plan import Plan
from farss.model.start import factors_digest
from farss.model.targets import Target, weight_matrix
from farss.statistics.gradients import Gradients
from farss.statistics.inputs import InputMoments
from farss.statistics.layer_fisher import LayerFisher
from farss.statistics.moments import SymmetricSum

LAYERS, KINDS = 4, {"q_proj": (24, 24), "k_proj": (8, 24), "up_proj": (40, 24), "down_proj": (24, 40)}
CONFIG = FarssConfig(rank=6, shallow_layers=2, r_min=1, r_avg=3, r_max=5)
ADAPTERS = [name for name in METHODS if name != "full"]
FISHER = ["farss", "farss-init", "all-high", "fixed-rank"]


class Curvature:
    """Second moments of random inputs and gradients, counting how often they are asked for."""

    def __init__(self, targets: list[Target]) -> None:
        generator = torch.Generator().manual_seed(7)
        self.calls = 0
        self.rows = {}
        for number, target in enumerate(targets):
            m, n = target.shape
            h, delta = (torch.randn(60, d, generator=generator, dtype=torch.float64) for d in (n, m))
            self.rows[target.name] = h * torch.logspace(0, 1, n).double(), delta * 1.7**number

    def pair(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        (h, delta), weight = self.rows[name], weight.double()
        left = weight.shape[0] < weight.shape[1]
        first, second = (h @ weight.T, delta) if left else (h, delta @ weight)
        return first.T @ first / len(h), second.T @ second / len(h)


@pytest.fixture
def targets() -> list[Target]:
    torch.manual_seed(0)
    found = []
    for layer in range(LAYERS):
        for kind, (m, n) in KINDS.items():
            linear = nn.Linear(n, m, bias=False)
            found.append(Target(f"layers.{layer}.{kind}", linear, layer, kind, (m, n), False, False))
    return found


@pytest.fixture
def layer_fisher(targets) -> LayerFisher:
    """Sums that make the layers' scores 3, 1, 4, 4 times the number of examples' share."""
    per_layer = (3.0, 1.0, 4.0, 4.0)
    return LayerFisher({t.name: torch.tensor(2 * per_layer[t.layer]).double() for t in targets}, 2, {})


@pytest.fixture
def evidence(targets, layer_fisher) -> Evidence:
    spectra = lambda target: decompose(weight_matrix(target))  # noqa: E731
    everything = {"curvature": Curvature(targets), "layer_fisher": layer_fisher, **further(targets)}
    return Evidence("abc", spectra, everything, {"rows": 3}, {KNOWLEDGE.name: {"rows": 5}})


def further(targets: list[Target]) -> dict[str, object]:
    """The other statistics, of random inputs and gradients."""
    generator = torch.Generator().manual_seed(9)
    shapes = {target.name: target.shape for target in targets}
    sums = {name: SymmetricSum(n, torch.float64) for name, (_, n) in shapes.items()}
    for total in sums.values():
        total.add(torch.randn(90, total.k, generator=generator, dtype=torch.float64))
    moments = InputMoments(
        {f"h/{name}": total for name, total in sums.items()}, {name: name for name in shapes}, shapes, tokens=90
    )
    gradients = {name: torch.randn(m, n, generator=generator, dtype=torch.float64) for name, (m, n) in shapes.items()}
    return {
        "input_covariance": moments,
        "knowledge_covariance": moments,
        "gradient": Gradients(gradients, supervised=4),
    }


def by_name(plan):
    return {target.name: target for target in plan.targets}


def low_of(evidence, target, rank):
    return tuple(sorted(np.argsort(evidence.scores(target).log_s.numpy())[:rank].tolist()))


def high_of(evidence, target, rank):
    return tuple(sorted(np.argsort(-evidence.scores(target).log_s.numpy())[:rank].tolist()))


def test_farss_ranks_shallow_modules_by_inverse_importance(targets, evidence):
    plan = get_method("farss").plan(targets, evidence, CONFIG)
    shallow = [target for target in targets if target.layer < 2]
    importance = [evidence.scores(target).importance for target in shallow]
    limits = [min(target.shape) for target in shallow]
    expected = allocate(importance, r_min=1, r_avg=3, r_max=5, limits=limits)
    assert tuple(t.rank for t in plan.targets if t.region == "shallow") == expected.ranks
    assert (plan.requested_rank_total, plan.realised_rank_total) == (expected.requested, expected.realised)
    assert all(t.rank == 6 for t in plan.targets if t.region == "deep")
    assert len(set(expected.ranks)) > 1


def test_farss_takes_lowest_scores_in_shallow_and_highest_in_deep_layers(targets, evidence):
    planned = by_name(get_method("farss").plan(targets, evidence, CONFIG))
    for target in targets:
        entry = planned[target.name]
        assert entry.region == ("shallow" if target.layer < 2 else "deep")
        expected = low_of if entry.region == "shallow" else high_of
        assert entry.indices == expected(evidence, target, entry.rank)
        assert entry.importance == evidence.scores(target).importance


def test_redistributed_budget_is_spent_exactly(targets, evidence):
    plan = get_method("farss").plan(targets, evidence, dataclasses.replace(CONFIG, budget="redistribute"))
    assert plan.requested_rank_total == plan.realised_rank_total == 8 * 3


def test_fixed_rank_differs_from_farss_in_ranks_only(targets, evidence):
    plan = get_method("fixed-rank").plan(targets, evidence, CONFIG)
    for target, entry in zip(targets, plan.targets, strict=True):
        shallow = target.layer < 2
        assert entry.rank == (3 if shallow else 6)
        assert entry.indices == (low_of if shallow else high_of)(evidence, target, entry.rank)
    assert plan.requested_rank_total == plan.realised_rank_total == 24


def test_all_high_is_farss_init_with_the_split_recorded(targets, evidence):
    everything, init = (get_method(name).plan(targets, evidence, CONFIG) for name in ("all-high", "farss-init"))
    assert [t.indices for t in everything.targets] == [t.indices for t in init.targets]
    assert [t.region for t in everything.targets].count("shallow") == 8
    assert all(t.region == "deep" for t in init.targets)
    assert (everything.requested_rank_total, init.requested_rank_total) == (48, 0)


@pytest.mark.parametrize(("name", "chosen"), [("pissa", range(0, 6)), ("milora", range(-6, 0))])
def test_singular_value_methods_need_no_data(targets, name, chosen):
    evidence = Evidence("abc", lambda target: decompose(weight_matrix(target)), data={"rows": 3})
    plan = get_method(name).plan(targets, evidence, CONFIG)
    for entry in plan.targets:
        assert entry.indices == tuple(i % min(entry.shape) for i in chosen) and entry.importance is None
    assert plan.data is None


def test_lora_needs_nothing_and_full_adapts_nothing(targets):
    lora = get_method("lora").plan(targets, Evidence("abc"), CONFIG)
    assert lora.initialisation == "random" and all(t.indices is None and t.rank == 6 for t in lora.targets)
    full = get_method("full").plan(targets, Evidence("abc"), CONFIG)
    assert full.initialisation == "none" and full.targets == () and get_method("full").trains == "weights"


@pytest.mark.parametrize("name", ADAPTERS)
def test_declared_needs_are_what_planning_uses(targets, evidence, name):
    method = get_method(name)
    spectra = evidence.spectra if "spectrum" in method.needs else None
    given = {name: found for name, found in evidence.statistics.items() if name in method.needs}
    method.plan(targets, Evidence("abc", spectra, given), CONFIG)
    if method.needs:
        with pytest.raises(PlanError, match="needs"):
            method.plan(targets, Evidence("abc"), CONFIG)


def test_many_methods_decompose_and_score_each_module_once(targets):
    asked: list[str] = []

    def spectra(target):
        asked.append(target.name)
        return decompose(weight_matrix(target))

    evidence = Evidence("abc", spectra, {"curvature": Curvature(targets)})
    for name in [*FISHER, "pissa", "milora"]:
        get_method(name).plan(targets, evidence, CONFIG)
    assert sorted(asked) == sorted(t.name for t in targets)
    assert evidence.of("curvature").calls == len(targets)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("unit", lambda r: 1.0), ("alpha_over_r", lambda r: 128 / r), ("rslora", lambda r: 128 / r**0.5)],
)
@pytest.mark.parametrize("name", ["farss", "lora"])
def test_scale_follows_the_rank_of_each_module(targets, evidence, name, scale, expected):
    plan = get_method(name).plan(targets, evidence, dataclasses.replace(CONFIG, scale=scale))
    assert all(t.scale == pytest.approx(expected(t.rank)) for t in plan.targets)


@pytest.mark.parametrize("selection", ["low", "high", "low_shallow_high_deep", "rank_rule"])
@pytest.mark.parametrize("name", ["farss", "farss-init", "fixed-rank"])
def test_selection_replaces_the_directions_of_methods_that_allow_it(targets, evidence, name, selection):
    plan = get_method(name).plan(targets, evidence, dataclasses.replace(CONFIG, selection=selection))
    for target, entry in zip(targets, plan.targets, strict=True):
        low = {"low": True, "high": False, "low_shallow_high_deep": target.layer < 2, "rank_rule": True}[selection]
        assert entry.indices == (low_of if low else high_of)(evidence, target, entry.rank)


@pytest.mark.parametrize("name", ["all-high", "pissa", "milora"])
def test_methods_named_after_their_directions_ignore_selection(targets, evidence, name):
    plain, other = (
        get_method(name).plan(targets, evidence, dataclasses.replace(CONFIG, selection=s)) for s in ("method", "low")
    )
    assert [t.indices for t in plain.targets] == [t.indices for t in other.targets]


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in ("eva", "adalora")])
def test_rank_is_capped_at_the_size_of_small_modules_with_one_warning(targets, evidence, name):
    with pytest.warns(RankCapWarning, match=f"{name}: ") as caught:
        plan = get_method(name).plan(targets, evidence, dataclasses.replace(CONFIG, rank=20))
    assert len([w for w in caught if w.category is RankCapWarning]) == 1
    most = {"lora-ga": 4, "kasa": 7}.get(name, 8)
    small = [t for t in plan.targets if t.shape == (8, 24) and t.region == "deep"]
    assert small and all(t.rank == most for t in small)


@pytest.mark.parametrize(
    ("drop", "dropped"),
    [("smallest", (5, 5, 5, 5)), ("published", (5, 5, 3, 0)), ("nothing", (0, 0, 0, 0))],
)
def test_how_much_kasa_drops_of_tall_square_wider_and_wide_weights(evidence, drop, dropped):
    shapes = ((40, 24), (24, 24), (22, 24), (8, 24))
    targets = [
        Target(f"layers.0.{i}", nn.Linear(n, m, bias=False), 0, "q_proj", (m, n), False, False)
        for i, (m, n) in enumerate(shapes)
    ]
    plan = get_method("kasa").plan(targets, evidence, FarssConfig(rank=5, own=(KasaConfig(drop=drop),)))
    expected = [tuple(range(min(shape) - count, min(shape))) for shape, count in zip(shapes, dropped, strict=True)]
    assert [row.indices for row in plan.targets] == expected
    assert {row.rank for row in plan.targets} == {5}


def test_adalora_starts_all_modules_alike_with_more_than_remains(targets, evidence):
    def ranks(**changes) -> set[int]:
        return {
            row.rank
            for row in get_method("adalora").plan(targets, evidence, dataclasses.replace(CONFIG, **changes)).targets
        }

    assert ranks(rank=3) == {5} and ranks(rank=3, own=(AdaloraConfig(initial_rank=7),)) == {7}
    with pytest.warns(RankCapWarning, match="adalora: 16 of 16"):
        assert ranks(rank=6) == {8}
    for changes in ({"rank": 8}, {"rank": 3, "own": (AdaloraConfig(initial_rank=3),)}):
        with pytest.raises(PlanError, match="nothing to cut"):
            ranks(**changes)
    for wrong in ({"initial_share": 0.7}, {"interval": 0}, {"beta1": 1.0}, {"orthogonality": -1.0}):
        with pytest.raises(ConfigError):
            AdaloraConfig(**wrong)


def test_no_warning_where_nothing_is_capped(targets, evidence):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_method("farss").plan(targets, evidence, CONFIG)


def test_unset_number_of_shallow_layers_is_about_a_fifth(targets, evidence):
    plan = get_method("farss").plan(targets, evidence, dataclasses.replace(CONFIG, shallow_layers=None))
    assert {t.layer for t in plan.targets if t.region == "shallow"} == {0}


def test_no_shallow_layers_is_possible(targets, evidence):
    plan = get_method("farss").plan(targets, evidence, dataclasses.replace(CONFIG, shallow_layers=0))
    assert all(t.region == "deep" for t in plan.targets) and plan.requested_rank_total == 0


def test_more_shallow_layers_than_layers_is_refused(targets, evidence):
    with pytest.raises(PlanError, match="more shallow layers"):
        get_method("farss").plan(targets, evidence, dataclasses.replace(CONFIG, shallow_layers=LAYERS + 1))


def test_split_needs_a_layer_for_every_module(targets, evidence):
    outside = [dataclasses.replace(targets[0], layer=None), *targets[1:]]
    with pytest.raises(PlanError, match="belongs to no layer"):
        get_method("farss").plan(outside, evidence, CONFIG)
    assert len(get_method("farss-init").plan(outside, evidence, CONFIG).targets) == len(targets)


def test_zero_weight_is_refused_by_spectral_methods(targets, evidence):
    with torch.no_grad():
        targets[0].module.weight.zero_()
    with pytest.raises(NumericalError, match="zero"):
        get_method("pissa").plan(targets, evidence, CONFIG)


@pytest.mark.filterwarnings("ignore::farss.maths.spectrum.AccuracyWarning")
def test_rank_deficient_weight_gets_only_directions_that_can_train(targets, evidence):
    with torch.no_grad():
        targets[0].module.weight[3:] = 0
    with pytest.warns(RankCapWarning):
        plan = get_method("milora").plan(targets, evidence, CONFIG)
    assert plan.targets[0].indices == (0, 1, 2)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_plans_survive_saving(targets, evidence, name, tmp_path):
    plan = get_method(name).plan(targets, evidence, CONFIG)
    plan.save(tmp_path / "plan.json")
    settings = dataclasses.replace(CONFIG, scale="rslora" if name == "rslora" else CONFIG.scale).to_mapping()
    assert type(plan).load(tmp_path / "plan.json") == dataclasses.replace(plan, settings=settings)
    assert plan.method == name and plan.base == "reference" and plan.model_fingerprint == "abc"


@pytest.mark.parametrize("row", ["q_proj", None, {"name": "q_proj", "rank": 3, "colour": 1}])
def test_a_damaged_row_of_a_plan_is_refused(targets, evidence, row):
    plan = get_method("farss").plan(targets, evidence, CONFIG)
    with pytest.raises(PlanError, match=r"lacks a key or has an unknown one|are a list of objects"):
        Plan.from_mapping({**plan.to_mapping(), "targets": [row]})


@pytest.mark.parametrize("name", ["olora", "corda-kpm", "lora-null-v2"])
def test_factors_are_kept_beside_the_plan_and_not_in_it(targets, evidence, name, tmp_path):
    plan = get_method(name).plan(targets, evidence, CONFIG)
    plan.save(tmp_path / "plan.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "plan.safetensors"]
    assert Plan.load(tmp_path / "plan.json").start is None and "start" not in plan.to_mapping()
    read = Plan.load(tmp_path / "plan.json", start=True).start
    assert factors_digest(read) == plan.factors_digest
    assert all(torch.equal(read[name].up, part.up) for name, part in plan.start.items())
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(PlanError, match="factors of the plan cannot be read"):
        Plan.load(tmp_path / "plan.json", start=True)


def test_a_plan_names_a_digest_exactly_where_it_has_factors(targets, evidence):
    plan = get_method("olora").plan(targets, evidence, CONFIG)
    for change in ({"factors_digest": None}, {"initialisation": "random"}):
        with pytest.raises(PlanError, match="digest"):
            dataclasses.replace(plan, **change)


def test_a_frozen_side_is_not_counted_as_trained(targets, evidence):
    first, second = (get_method(name).plan(targets, evidence, CONFIG) for name in ("lora-null", "lora-null-v2"))
    assert first.trainable_parameters == sum(t.rank * sum(t.shape) for t in first.targets)
    assert second.trainable_parameters == sum(t.rank * t.shape[0] for t in second.targets)
    assert first.factors_digest == second.factors_digest and second.frozen == "down"


def test_plans_name_the_data_they_were_made_from(targets, evidence):
    data = {name: get_method(name).plan(targets, evidence, CONFIG).data for name in ADAPTERS}
    for name, used in data.items():
        needs = get_method(name).needs
        assert used == ({"rows": 5} if KNOWLEDGE.name in needs else {"rows": 3} if needs & set(OWN) else None), name


def test_plan_base_follows_the_configuration(targets, evidence):
    assert get_method("farss").plan(targets, evidence, dataclasses.replace(CONFIG, base="residual")).base == "residual"


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean `farss-init`"):
        get_method("farss_init")


def fora(**settings) -> FarssConfig:
    return dataclasses.replace(CONFIG, own=(ForaConfig(**settings),))


@pytest.mark.parametrize(
    ("rho", "layers"), [(0.25, {2}), (0.5, {2, 3}), (0.75, {0, 2, 3}), (0.99, {0, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_fora_adapts_the_layers_of_largest_score_and_of_equal_ones_the_lower(targets, evidence, rho, layers):
    plan = get_method("fora").plan(targets, evidence, fora(rho=rho))
    assert {t.layer for t in plan.targets} == layers
    assert [t.name for t in plan.targets] == [t.name for t in targets if t.layer in layers]
    assert plan.initialisation == "constrained" and plan.data == {"rows": 3}
    assert plan.layer_scores == {"0": 12.0, "1": 4.0, "2": 16.0, "3": 16.0}
    assert plan.trainable_parameters == sum(t.rank * sum(t.shape) + 1 for t in plan.targets)


def test_fora_can_divide_scores_by_the_number_of_weights(targets, layer_fisher):
    small = [target for target in targets if target.layer != 0 or target.kind == "k_proj"]
    evidence = Evidence("abc", None, {"layer_fisher": layer_fisher})
    first = {
        score: {t.layer for t in get_method("fora").plan(small, evidence, fora(rho=0.25, score=score)).targets}
        for score in ("sum", "mean")
    }
    assert first == {"sum": {2}, "mean": {0}}


def test_the_share_of_layers_is_the_decimal_number_it_is_written_as():
    scores = {layer: 1.0 for layer in range(100)}
    assert 0.29 * 100 < 29 and top_layers(scores, 0.29) == frozenset(range(29))


def test_fora_refuses_what_leaves_no_layer(targets, evidence):
    with pytest.raises(PlanError, match="leaves none"):
        get_method("fora").plan(targets, evidence, fora(rho=0.2))
    outside = [dataclasses.replace(targets[0], layer=None), *targets[1:]]
    with pytest.raises(PlanError, match="belongs to no layer"):
        get_method("fora").plan(outside, evidence, CONFIG)
    for settings in ({"rho": 0.0}, {"rho": 1.5}, {"rate": 0.0}):
        with pytest.raises(ConfigError):
            fora(**settings)
