"""Model and data set in, report out."""

from crispmask.evaluate.calibration import Answers as Answers
from crispmask.evaluate.calibration import Calibration as Calibration
from crispmask.evaluate.calibration import calibrate as calibrate
from crispmask.evaluate.images import LabelledImages as LabelledImages
from crispmask.evaluate.loop import evaluate as evaluate
from crispmask.evaluate.rows import Predictor as Predictor
from crispmask.evaluate.rows import Row as Row
from crispmask.evaluate.rows import refiner_rows as refiner_rows
