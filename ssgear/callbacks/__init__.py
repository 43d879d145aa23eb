"""What watches a run: readings, export, samples, the critic, final figures, the report.

They join rooms that do not know each other: engine, evaluation, report. `ssgear.train` composes
them.
"""

from ssgear.callbacks.critic import CriticWatch
from ssgear.callbacks.export import Export
from ssgear.callbacks.figures import FinalFigures
from ssgear.callbacks.readings import Readings
from ssgear.callbacks.report import Report
from ssgear.callbacks.samples import Samples

__all__ = ["CriticWatch", "Export", "FinalFigures", "Readings", "Report", "Samples"]
