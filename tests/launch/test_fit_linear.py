import numpy as np
from absl import flags
from safetensors.numpy import load_file

from histojax.imaging import enlargement, resampling
from histojax.models import resizing
from tests import tiny
from tests.launch.commands import load, loaded

fit = load("launch.fit_linear").fit


def test_the_fit_recovers_the_kernels_that_made_the_images():
    # Images whose reduction is anything, and whose blocks are a filter of the reduction.
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (160, 160, 3)).astype(np.uint8) for _ in range(2)]
    fitted = fit(images)
    assert fitted.shape == (4, 4, 11, 11)
    residual = []
    for image in images:
        lr = resampling.downsample(image, 4)
        for kernels in (fitted, np.roll(fitted, 1, -1), 0.9 * fitted):
            out = np.asarray(resizing.filtered(lr.astype(np.float32), kernels))
            residual.append(np.square(out - image).mean())
    assert max(residual[0], residual[3]) < min(residual[1:3] + residual[4:])


def test_the_command_writes_what_the_filter_reads(tmp_path):
    root, output = tiny.folder(tmp_path / "data"), tmp_path / "linear.safetensors"
    with loaded("launch.fit_linear") as command:
        flags.FLAGS(["fit", f"--data=folder:{root}", f"--output={output}"])
        command.main([])
    written = load_file(output)["kernels"]
    assert (written.shape, written.dtype) == ((4, 4, 11, 11), np.float32)
    assert load_file(enlargement.LINEAR_FILE)["kernels"].shape == written.shape
