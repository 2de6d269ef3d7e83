"""The study: a file becomes arms, arms become shards, both get paths.

A study is a set of arms, one per cell of the sweep; an arm is one ensemble, or one kernel in a study of kernels.
"""

from .arms import FORMAT, Arm, KernelArm, fingerprint
from .layout import Study
from .missing import ensemble_shards, missing_members, missing_report
from .probes import Candidate, Choice, Probe, read_probe
from .reading import load_study, parse_study, read_yaml
from .shards import header, plan_shards

__all__ = [
    "FORMAT",
    "Arm",
    "Candidate",
    "Choice",
    "KernelArm",
    "Probe",
    "Study",
    "ensemble_shards",
    "fingerprint",
    "header",
    "load_study",
    "missing_members",
    "missing_report",
    "parse_study",
    "plan_shards",
    "read_probe",
    "read_yaml",
]
