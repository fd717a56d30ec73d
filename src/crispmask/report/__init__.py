"""Results and how they are shown."""

from crispmask.report.report import Report as Report
from crispmask.report.results import COLUMNS as COLUMNS
from crispmask.report.results import CONFIDENCE_COLUMNS as CONFIDENCE_COLUMNS
from crispmask.report.results import Column as Column
from crispmask.report.results import Comparison as Comparison
from crispmask.report.results import CorrectedExample as CorrectedExample
from crispmask.report.results import Corrections as Corrections
from crispmask.report.results import Example as Example
from crispmask.report.results import Gain as Gain
from crispmask.report.results import ImageResult as ImageResult
from crispmask.report.results import Reliability as Reliability
from crispmask.report.results import RiskCurve as RiskCurve
from crispmask.report.results import RowResult as RowResult
from crispmask.report.results import StateUse as StateUse
