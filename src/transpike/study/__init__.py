"""Grids of conversions that run for hours, are killed, and go on where they stopped."""

from __future__ import annotations

from transpike.study.config import Study, read_study
from transpike.study.run import run_study
from transpike.study.tables import report_study, study_status

__all__ = ["Study", "read_study", "report_study", "run_study", "study_status"]
