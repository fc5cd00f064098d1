"""The published procedure of Morpho-MNIST and DeepSCM, written plainly on scikit-image: slow, for comparison."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import morphology, transform

SCALE = 16


class Ties(np.random.Generator):
    """Breaks the ties of the medial axis as scikit-image did by default in 2020."""

    def __init__(self) -> None:
        super().__init__(np.random.MT19937(0))

    def permutation(self, x, axis=0):
        return np.random.RandomState(0).permutation(x)


def smooth(image, scale=SCALE):
    return ndimage.gaussian_filter(image.astype(float), 2 * scale / 6, mode="reflect")


def resize(image, shape, order, nudge=0.0):
    """``nudge`` moves every place by so much, to the right and up."""
    rows, columns = (old / new for old, new in zip(image.shape, shape, strict=True))
    matrix = [[columns, 0, (columns - 1) / 2 + nudge], [0, rows, (rows - 1) / 2 - nudge], [0, 0, 1]]
    place = transform.AffineTransform(np.array(matrix))
    return transform.warp(image, place, output_shape=shape, order=order, mode="reflect")


def expand(image, scale=SCALE):
    return smooth(resize(image * (1 / 255), tuple(scale * n for n in image.shape), 3), scale)


def reduce(image, order=3, nudge=0.0):
    return resize(smooth(image), tuple(-(-n // SCALE) for n in image.shape), order, nudge)


def outline(image, scale=SCALE):
    large = (255 * expand(image, scale)).astype(np.uint8)
    low, high = large.min(), large.max()
    return large >= low + (high - low) * 0.5


def thickness(mask, scale=SCALE):
    skeleton, distance = morphology.medial_axis(mask, return_distance=True, rng=Ties())
    return 2 * np.mean(distance[skeleton]) / scale


def footprint(radius):
    # The transform was fitted by least squares, whose rounding error decided two places of the disk of radius 19.
    return reduce(morphology.disk(SCALE * radius, dtype=float), order=1, nudge=1e-11) != 0


def set_thickness(mask, wanted):
    delta = np.float32(wanted) - np.float32(thickness(mask))
    element = footprint(int(SCALE * abs(delta) / 2))
    if delta >= 0:
        return morphology.dilation(mask, element).astype(bool)
    return morphology.erosion(mask, element).astype(bool)


def set_slant(mask, degrees):
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    row, column = rows[mask].mean(), columns[mask].mean()
    shear = ((rows[mask] - row) * (columns[mask] - column)).sum() / ((rows[mask] - row) ** 2).sum()
    matrix = np.array([[1, np.tan(np.deg2rad(degrees)) + shear], [0, 1]])
    centre = np.array([column, row])
    return transform.warp(mask.astype(float), lambda xy: (xy - centre) @ matrix.T + centre, order=1)


def shrink(mask):
    return (255 * reduce(mask.astype(float))).astype(np.uint8)


def brighten(image, intensity):
    low, high = image.min(), image.max()
    median = np.median(image[image >= low + (high - low) * 0.5])
    return np.clip(image * (np.float64(np.float32(intensity)) / median), 0, 255).astype(np.uint8)


def render(image, wanted, intensity):
    return brighten(shrink(set_thickness(outline(image), wanted)), intensity)
