"""Weights & Biases: a mirror of the results, never their source. The only package that knows it.

One run per shard, per theory store and per study summary (never one per member), grouped by study, with
deterministic ids so that a repeated job continues its run. Offline by default; no environment, code, host name,
path or console output is sent. What the runs hold: docs/tracking.md.
"""

from .jobs import log_shard, log_summary, log_theory

__all__ = ["log_shard", "log_summary", "log_theory"]
