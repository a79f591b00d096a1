"""Code from a model's output, run where it can do no harm: see docs/sandbox.md."""

from farss.evaluation.sandbox.examination import Examination
from farss.evaluation.sandbox.limits import Limits, Outcome, Status
from farss.evaluation.sandbox.pool import run_program, run_programs
from farss.evaluation.sandbox.protections import GUARANTEES, MINIMUM, Guarantee, Protections, probe, require

__all__ = [
    "GUARANTEES",
    "MINIMUM",
    "Examination",
    "Guarantee",
    "Limits",
    "Outcome",
    "Protections",
    "Status",
    "probe",
    "require",
    "run_program",
    "run_programs",
]
