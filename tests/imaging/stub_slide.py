"""A slide as OpenSlide answers for it, made of an array; its files end in .mrxs."""

import openslide
import PIL.Image


def install(monkeypatch, image, *, alpha=None, factors=(1,), damaged=None, **properties):
    """Has OpenSlide read `image`, uint8 (H, W, 3), from any file that ends in .mrxs.

    `alpha` is uint8 (H, W), `factors` those of the levels, and `damaged` the y, x of a pixel of
    level 0 that cannot be read. Properties are named without "openslide.", with _ for -. The list
    that is returned holds (corner, level, size) of each region that was read, and "closed".
    """
    rgba = PIL.Image.fromarray(image)
    rgba.putalpha(255 if alpha is None else PIL.Image.fromarray(alpha))
    named = {"openslide." + name.replace("_", "-"): v for name, v in properties.items()}
    asked = []

    class Slide:
        def __init__(self, path):
            height, width = image.shape[:2]
            self.level_dimensions = [(-(-width // f), -(-height // f)) for f in factors]
            self.properties = {"openslide.vendor": "mirax", **named}
            self.failed = False

        @staticmethod
        def detect_format(path):
            return "mirax" if str(path).endswith(".mrxs") else None

        def read_region(self, corner, level, size):
            asked.append((corner, level, size))
            factor, (x, y) = factors[level], corner
            right, bottom = x + size[0] * factor, y + size[1] * factor
            inside = damaged and y <= damaged[0] < bottom and x <= damaged[1] < right
            self.failed = self.failed or bool(inside)
            if self.failed:
                raise openslide.OpenSlideError("no such tile")
            cut = rgba.crop((x, y, right, bottom))
            return cut.resize(size, PIL.Image.Resampling.NEAREST)

        def close(self):
            asked.append("closed")

    monkeypatch.setattr(openslide, "OpenSlide", Slide)
    return asked
