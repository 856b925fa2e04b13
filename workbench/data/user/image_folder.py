"""A folder of images, one folder per class inside; each image is read when a batch needs it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import NonNegativeInt

from workbench.data.base import DatasetSummary
from workbench.data.user.paths import FileDataset
from workbench.errors import SpecError
from workbench.spec.options import DatasetOptions, ReadsFile

if TYPE_CHECKING:
    from workbench.data.base import Array

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MAX_INTENSITY = 255


class ImageFolderOptions(DatasetOptions):
    """Options of a folder of images."""

    name: Annotated[str, ReadsFile]
    """Path of the folder; the folders in it are the classes, in alphabetical order."""

    height: NonNegativeInt = 0
    """Height in pixels to which images are resized; 0: that of the first image."""

    width: NonNegativeInt = 0
    """Width in pixels to which images are resized; 0: that of the first image."""

    channels: Literal[1, 3] = 3
    """Channels: 1 for grey, 3 for red, green and blue."""


@dataclass(frozen=True)
class Images:
    """Images with the indices of their classes; intensities are between 0 and 1."""

    paths: tuple[Path, ...]
    labels: Array
    shape: tuple[int, int, int]
    """(channels, height, width)."""

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        import numpy as np

        return np.stack([_read(self.paths[index], self.shape) for index in indices]), self.labels[indices]

    def targets(self, indices: Array) -> Array:
        """Returns only the labels."""
        return self.labels[indices]


class ImageFolder(FileDataset[ImageFolderOptions]):
    """Images in one folder per class."""

    name = "images"
    Options = ImageFolderOptions

    def summary(self) -> DatasetSummary:
        images = self.load()
        return DatasetSummary("images", images.shape, int(images.labels.max()) + 1, len(images), has_ignored_targets=False)

    def load(self) -> Images:
        import numpy as np

        o = self.options
        paths, labels = _found(self.path)
        with _opened(paths[0]) as image:
            size = o.height or image.height, o.width or image.width
        return Images(paths, np.array(labels), (o.channels, *size))


@functools.lru_cache(maxsize=4)
def _found(folder: Path) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Returns the paths of the images, and the index of the class of each."""
    if any(folder.glob("*.arrow")):
        raise SpecError("dataset.name", f"{folder} is a folder of Arrow files; name it as hf:{folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        (path, index)
        for index, of_class in enumerate(classes)
        for path in sorted(of_class.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if len({index for _, index in found}) < 2:
        raise SpecError(
            "dataset.name",
            f"{folder} requires at least two folders, one per class, with images ({', '.join(_SUFFIXES)}), but has"
            f" {len(classes)} folders with {len(found)} images",
        )
    paths, labels = zip(*found, strict=True)
    return paths, labels


def _read(path: Path, shape: tuple[int, int, int]) -> Array:
    """Returns an image as (channels, height, width)."""
    import numpy as np

    channels, height, width = shape
    with _opened(path) as image:
        pixels = np.asarray(image.convert("RGB" if channels > 1 else "L").resize((width, height)), dtype=np.float32)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1) / _MAX_INTENSITY


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except OSError as error:
        raise SpecError("dataset.name", f"{path} cannot be read as an image: {error}") from None
