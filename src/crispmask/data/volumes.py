"""Slices of a labelled volume in NIfTI files: the brain of Colin27 with the regions of AAL.

Colin27 is the average of 27 scans of one man's head (Holmes et al. 1998), AAL its anatomical
labelling in 116 regions (Tzourio-Mazoyer et al. 2002), here merged to twelve structures. One brain
alone: train is the left hemisphere and test the right one, mirrored. A number on this data says
that a network learns medical structures from few slices, not that it serves other patients.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from crispmask.data.sample import Sample
from crispmask.errors import InputError

COLIN27_CLASSES = (
    "background",
    "frontal lobe",
    "parietal lobe",
    "temporal lobe",
    "occipital lobe",
    "insula",
    "cingulate cortex",
    "hippocampus",
    "amygdala",
    "caudate nucleus",
    "lentiform nucleus",
    "thalamus",
    "cerebellum",
)
"""Background is all that AAL leaves without a region: white matter, fluid, skull, air."""

STRUCTURES = {
    "Precentral": "frontal lobe",
    "Frontal": "frontal lobe",
    "Rolandic": "frontal lobe",
    "Supp": "frontal lobe",
    "Olfactory": "frontal lobe",
    "Rectus": "frontal lobe",
    "Insula": "insula",
    "Cingulum": "cingulate cortex",
    "Hippocampus": "hippocampus",
    "ParaHippocampal": "hippocampus",
    "Amygdala": "amygdala",
    "Calcarine": "occipital lobe",
    "Cuneus": "occipital lobe",
    "Lingual": "occipital lobe",
    "Occipital": "occipital lobe",
    "Fusiform": "temporal lobe",
    "Postcentral": "parietal lobe",
    "Parietal": "parietal lobe",
    "SupraMarginal": "parietal lobe",
    "Angular": "parietal lobe",
    "Precuneus": "parietal lobe",
    "Paracentral": "parietal lobe",
    "Caudate": "caudate nucleus",
    "Putamen": "lentiform nucleus",
    "Pallidum": "lentiform nucleus",
    "Thalamus": "thalamus",
    "Heschl": "temporal lobe",
    "Temporal": "temporal lobe",
    "Cerebelum": "cerebellum",
    "Vermis": "cerebellum",
}
"""Structure of each region by the first word of its AAL name, in the order of the regions."""

FILES = ("ch2.nii.gz", "aal.nii.gz", "aal.nii.txt")

BLOCK = 4
"""Neighbouring slices that form a block; every fifth block of the left hemisphere is val."""

LEAST = 0.03
"""Share of labelled pixels that a slice needs."""


def merge_table(lines: list[str], *, source: str) -> dict[int, int]:
    """Class of each value of the label volume, from lines like ``37 Hippocampus_L 4101``.

    Raises:
        InputError: if a line has no number and name, or names no region of AAL.
    """
    table = {0: 0}
    for line in filter(None, map(str.strip, lines)):
        value, _, rest = line.partition(" ")
        region = rest.split("_")[0].split(" ")[0]
        if not value.isdigit() or region not in STRUCTURES:
            raise InputError(
                f"{source} needs a number and the name of an AAL region a line, got {line!r}; "
                "take the file that came with aal.nii.gz."
            )
        table[int(value)] = COLIN27_CLASSES.index(STRUCTURES[region])
    return table


def _load(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Voxels with axes to the right, the front and the top; and their places in millimetres."""
    try:
        import nibabel
    except ImportError as error:
        raise InputError(
            "volumes are read with nibabel, which is not installed; install crispmask[medical]."
        ) from error
    try:
        to_canonical: Any = nibabel.as_closest_canonical
        volume = to_canonical(nibabel.load(path))
        voxels = np.asarray(volume.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read as a NIfTI volume ({error}).") from error
    return voxels, np.asarray(volume.affine, dtype=np.float64)


class SliceDataset(Dataset[Sample]):
    """Horizontal slices of one hemisphere, front up, the middle of the brain at the right edge.

    Attributes:
        class_names: in the order of the ids.
        names: hemisphere and height in voxels, like ``left-072``.
        blocks: `BLOCK` neighbouring slices each; a bootstrap should draw blocks.
    """

    def __init__(
        self, voxels: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], split: str
    ) -> None:
        """Takes both volumes with axes to the right, the front and the top, one hemisphere.

        The first axis ends in the middle of the brain. Grey values are in [0, 1].
        """
        self.class_names = COLIN27_CLASSES
        side = "right" if split == "test" else "left"
        self.names: list[str] = []
        self.blocks: list[str] = []
        self._slices: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
        for height in range(labels.shape[2]):
            label = labels[:, :, height]
            held_out = height // BLOCK % 5 == 2
            if (label > 0).mean() < LEAST or (split != "test" and held_out != (split == "val")):
                continue
            self.names.append(f"{side}-{height:03d}")
            self.blocks.append(f"{side}-{height // BLOCK:02d}")
            self._slices.append((voxels[:, ::-1, height].T.copy(), label[:, ::-1].T.copy()))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        grey, labels = self._slices[index]
        image = torch.from_numpy(grey).expand(3, -1, -1).contiguous()
        return Sample(image, torch.from_numpy(labels), self.names[index])


def colin27(folder: Path, split: str) -> SliceDataset:
    """Slices of ``ch2.nii.gz`` with the regions of ``aal.nii.gz``, merged by ``aal.nii.txt``.

    These files come with MRIcron (on Debian in the package ``mricron-data``) and belong to their
    authors. Train and val are the left hemisphere, in blocks of slices, test is the right one.

    Raises:
        InputError: if the split is none of these, a file is missing or of another kind, the
            volumes differ in shape, or nibabel is not installed (extra ``medical``).
    """
    if split not in ("train", "val", "test"):
        raise InputError(f"split must be one of train, val, test, got {split}.")
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} needs {', '.join(FILES)} of MRIcron, {', '.join(missing)} missing; "
            "docs/domains.md says where they come from."
        )
    voxels, affine = _load(folder / FILES[0])
    regions, _ = _load(folder / FILES[1])
    if voxels.ndim != 3 or voxels.shape != regions.shape:
        raise InputError(
            f"image and labels need one shape of three axes, {FILES[0]} has {voxels.shape} and "
            f"{FILES[1]} {regions.shape}; take both from the same release."
        )
    names = folder / FILES[2]
    table = merge_table(names.read_text("utf-8", errors="replace").splitlines(), source=str(names))
    values = regions.round().astype(np.int64)
    unknown = sorted(set(np.unique(values).tolist()) - set(table))
    if unknown:
        raise InputError(f"{FILES[1]} has values {unknown[:5]} that {names} does not name.")
    lookup = np.zeros(max(table) + 1, dtype=np.int64)
    lookup[list(table)] = list(table.values())
    labels: npt.NDArray[np.int64] = lookup[values]

    voxels = (voxels / max(float(np.percentile(voxels, 99.9)), 1e-6)).clip(0, 1)
    middle = round(float(-affine[0, 3] / affine[0, 0]))  # voxel at 0 mm
    width = min(middle, voxels.shape[0] - middle - 1) + 1  # the middle itself is in both
    half = slice(middle + 1 - width, middle + 1)
    if split == "test":  # the right half, mirrored
        voxels, labels = voxels[::-1], labels[::-1]
        half = slice(len(voxels) - middle - width, len(voxels) - middle)
    return SliceDataset(voxels[half], labels[half], split)
