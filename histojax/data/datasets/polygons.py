"""Aperio ImageScope annotations (XML of polygons) drawn as a label image."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import skimage.draw

from histojax.errors import UserError


def read_regions(path: Path) -> list[np.ndarray]:
    """The polygons of an annotation file, float (vertices, 2) of (y, x) in px each.

    Pixel centres are at whole numbers.

    Raises:
        UserError: for a damaged file, or no Aperio annotation.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeError, LookupError, ValueError) as error:
        raise UserError(
            f"{path} is not valid XML ({error}): restore it from the data set"
        ) from error
    if root.tag != "Annotations" or root.find("Annotation/Regions") is None:
        raise UserError(
            f"{path} is not an Aperio annotation (Annotations / Annotation / Regions / Region): "
            "give the XML files of the data set"
        )
    regions = []
    for number, region in enumerate(root.iterfind("Annotation/Regions/Region"), 1):
        try:
            vertices = [
                [float(vertex.attrib[axis]) for axis in "YX"]
                for vertex in region.iterfind("Vertices/Vertex")
            ]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path}: a vertex of region {number} has no numbers X and Y ({error}): restore "
                "the file from the data set"
            ) from error
        if not np.isfinite(vertices).all():
            raise UserError(
                f"{path}: a vertex of region {number} is not finite: restore the file from the "
                "data set"
            )
        regions.append(np.array(vertices, np.float64).reshape(-1, 2))
    return regions


def draw_regions(regions: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """int32 (height, width): the number of the first region that covers a pixel, from 1.

    Regions are polygons of (y, x) in px. A pixel whose centre lies on an edge is covered. What lies
    outside the image is cut off.
    """
    labels = np.zeros((height, width), np.int32)
    for number, region in enumerate(regions, 1):
        if not len(region):
            continue
        rows, columns = skimage.draw.polygon(region[:, 0], region[:, 1], labels.shape)
        free = labels[rows, columns] == 0
        labels[rows[free], columns[free]] = number
    return labels
