import numpy as np
from absl import flags
from safetensors.numpy import load_file

from histojax.imaging import enlargement, resampling
from histojax.models import resizing
from tests import tiny
from tests.launch.commands import load, loaded

fit = load("launch.fit_linear").fit


def test_images_that_a_filter_made_give_that_filter_back(monkeypatch):
    # The first pixel of each block is the input's, so that taking it undoes the enlargement.
    monkeypatch.setattr(resampling, "downsample", lambda image, scale: image[::scale, ::scale])
    rng = np.random.default_rng(0)
    kernels = rng.integers(-3, 4, (4, 4, 11, 11)).astype(np.float32)
    kernels[0, 0] = np.eye(11)[5][:, None] * np.eye(11)[5]
    lr = [rng.integers(0, 256, (24, 32, 3)).astype(np.float32) for _ in range(2)]
    images = [np.asarray(resizing.filtered(image, kernels)) for image in lr]
    np.testing.assert_allclose(fit(images), kernels, atol=1e-5)


def test_no_other_filter_has_a_smaller_error_on_the_images():
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
