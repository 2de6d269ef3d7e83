"""Tasks: labelled inputs and targets, and how the group acts on both."""

from .base import Readout, TaskData
from .registry import build_task

__all__ = ["Readout", "TaskData", "build_task"]
