"""Draw docs/pictures/fields.jpg: fields of the synthetic data set above their masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from crispmask.data.fields import FIELD_PALETTE, fields
from crispmask.data.sample import colorize

SHOWN = (4, 0, 8, 20)

data = fields("train")
samples = [data[i] for i in SHOWN]
pictures = [(s.image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for s in samples]
masks = [colorize(s.mask, FIELD_PALETTE) for s in samples]
sheet = np.concatenate([np.concatenate(row, 1) for row in (pictures, masks)], 0)
target = Path(__file__).parents[1] / "docs" / "pictures" / "fields.jpg"
Image.fromarray(sheet).save(target, quality=80)
