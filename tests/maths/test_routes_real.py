"""The routes on the weights of a real model: the directions that a plan may choose are those of float64 LAPACK."""

from __future__ import annotations

import pytest
import torch

from farss.config import ModelConfig
from farss.maths.spectrum import COHERENCE_TOLERANCE, decompose
from farss.model import packages
from farss.model.sources import KNOWN_MODELS, load
from farss.model.targets import find_targets, weight_matrix

NAME = "smollm2-135m"
LOW, HIGH = 16, 32
STORAGE = 1e-6  # of a basis kept in float32


@pytest.fixture(scope="module")
def weights():
    if packages.package_files(KNOWN_MODELS[NAME]) is None:
        pytest.skip(f"the package of {NAME} is not installed")
    targets = find_targets(load(ModelConfig(name=NAME)).model)
    return {(target.layer, target.kind): weight_matrix(target) for target in targets}


@pytest.mark.slow
@pytest.mark.parametrize("route", ["gram", "polar"])
@pytest.mark.parametrize("kind", ["q_proj", "k_proj", "gate_proj", "down_proj"])
def test_chosen_subspaces_of_real_weights_agree_with_float64_lapack(weights, kind, route):
    """The first layer is the hardest: its q_proj has a condition near 6e4."""
    weight = weights[0, kind]
    found = decompose(weight, route)
    U, sigma, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    exact, k = (U if found.side == "left" else Vh.T), len(sigma)
    assert found.route == route
    torch.testing.assert_close(found.sigma, sigma, rtol=COHERENCE_TOLERANCE, atol=0)
    for chosen, cut in ((slice(k - LOW, k), k - LOW), (slice(0, HIGH), HIGH)):
        rho = float(sigma[cut - 1] / sigma[cut])
        one, two = found.basis[:, chosen].double(), exact[:, chosen]
        turned = float(torch.linalg.matrix_norm(one @ one.T - two @ two.T, ord=2))
        assert turned < COHERENCE_TOLERANCE / (rho - 1 / rho) + STORAGE, (chosen, rho)
        assert turned < 1e-3, "the subspaces agree outright, not only as far as a small gap allows"
