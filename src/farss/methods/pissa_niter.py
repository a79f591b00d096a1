"""PiSSA by randomised decomposition: the fast variant of `pissa`."""

from __future__ import annotations

from farss.config import FarssConfig
from farss.errors import NumericalError
from farss.maths.randomised import leading_components
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod, balanced
from farss.methods.look import Look
from farss.methods.start_settings import StartConfig
from farss.model.start import Factors
from farss.model.targets import Target, weight_matrix


class PissaNiter(FactorMethod):
    """`B = U sqrt(Sigma / s)`, `A = sqrt(Sigma / s) V'` of about the r largest singular components."""

    divided = True

    def factors(self, target: Target, rank: int, evidence: Evidence, config: FarssConfig) -> Factors:
        """The components that `init.start.iterations` of randomised subspace iteration find.

        Raises:
            NumericalError: if the weight is zero.
        """
        iterations = config.of(StartConfig).iterations
        left, sigma, right = leading_components(weight_matrix(target), rank, iterations, config.seed)
        solid = sigma > 0  # a component of zero gives A = B = 0, which training never leaves
        if not bool(solid.any()):
            raise NumericalError("every singular value is zero", where=target.name, do="exclude this module")
        return balanced(left[:, solid], sigma[solid], right[:, solid])


PISSA_NITER = PissaNiter(
    name="pissa-niter",
    summary="PiSSA by randomised decomposition (init.start.iterations); needs no data",
    look=Look("PiSSA-niter", "#765406", "plank"),
)
"""The fast variant of PiSSA (NeurIPS 2024); `pissa` decomposes exactly."""
