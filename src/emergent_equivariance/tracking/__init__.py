"""Weights & Biases: a mirror of the results, never their source. The only package that knows it."""

from .runs import log_shard, log_summary, log_theory

__all__ = ["log_shard", "log_summary", "log_theory"]
