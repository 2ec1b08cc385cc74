"""Domain adaptation of detectors: a labelled source, an unlabelled target, one network for both."""

from __future__ import annotations

from visloom.tasks.adapt.spec import DAFRCNN_2018, SADA, TEACHER, Adapt, Align, Teacher

__all__ = ["DAFRCNN_2018", "SADA", "TEACHER", "Adapt", "Align", "Teacher"]
