"""A source whose pixels say where they are, so that a crop shows how it was cut and moved."""

import numpy as np

# Fields of `config.data` that say how batches are made.
PIPELINE = {"placement": "host", "workers": 0, "crops_per_image": 1, "device_bytes": 2**30}


class Coordinates:
    """hr = (y, x, image number); instances = y * 64 + x + 1; lr = (y, x, image number) / 4."""

    def __init__(self, sizes=((40, 56), (48, 32), (36, 44)), fields=("instances",), first_label=1):
        self.sizes = sizes
        self.fields = fields
        self.first_label = first_label
        self.reads = 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.reads += 1
        height, width = self.sizes[index]
        y, x = np.indices((height, width))
        number = np.full_like(y, index)
        hr = np.stack([y, x, number], axis=-1).astype(np.uint8)
        optional = {
            "instances": (y * 64 + x + self.first_label).astype(np.int32),
            "mask": ((y + x) % 2).astype(np.uint8),
            "lr": np.stack([y // 4, x // 4, number], axis=-1)[::4, ::4].astype(np.uint8),
        }
        return {"name": f"image{index}", "hr": hr, **{f: optional[f] for f in self.fields}}


def assert_registered(batch, first_label=1):
    """Labels and lr of a batch lie where its hr pixels say."""
    hr = np.asarray(batch["hr"]).astype(int)
    y, x = hr[..., 0], hr[..., 1]
    if "instances" in batch:
        np.testing.assert_array_equal(batch["instances"], y * 64 + x + first_label)
    if "lr" in batch:
        blocks = np.concatenate([hr[..., :2] // 4, hr[..., 2:]], axis=-1)
        for dy in range(4):
            for dx in range(4):
                np.testing.assert_array_equal(batch["lr"], blocks[:, dy::4, dx::4])
    # A crop is contiguous and as large as it says.
    side = hr.shape[1]
    assert (np.ptp(y, axis=(1, 2)) == side - 1).all()
    assert (np.ptp(x, axis=(1, 2)) == side - 1).all()
