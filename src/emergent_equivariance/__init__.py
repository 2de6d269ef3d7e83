"""Emergent equivariance of deep ensembles, measured against the analytic NTK mean."""

__version__ = "0.1.0"
