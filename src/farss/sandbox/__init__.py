"""Code from a model's output, run where it can do no harm: see docs/sandbox.md."""

from farss.sandbox.examination import Examination
from farss.sandbox.limits import Limits, Outcome, Status
from farss.sandbox.pool import run_program, run_programs
from farss.sandbox.protections import GUARANTEES, MINIMUM, Guarantee, Protections, probe, require

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
