import errno
import json
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.ndimage

from histojax.data import pipeline
from histojax.data.device_batches import DeviceBatches
from histojax.data.pipeline import HostBatches, ImageOrder, train_batches
from histojax.errors import UserError
from histojax.imaging import resampling
from tests.data.coordinates import PIPELINE, Coordinates, assert_registered

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {
    "crop": 16,
    **PIPELINE,
    "degradation": {"name": "microscope"},
    "augmentation": {"stain_sigma": 0.2, "stain_bias": 0.05},
}


def host_batches(source=None, config=None, fields=("hr", "lr"), batch_size=4, seed=0, **kwargs):
    return train_batches(
        Coordinates() if source is None else source,
        {**CONFIG, **(config or {})},
        fields=fields,
        batch_size=batch_size,
        seed=seed,
        **kwargs,
    )


def take(batches, count):
    taken = [{f: np.array(a) for f, a in next(batches).items()} for _ in range(count)]
    return taken


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for field in a:
            assert a[field].dtype == b[field].dtype
            np.testing.assert_array_equal(a[field], b[field])


@pytest.mark.faults
@pytest.mark.parametrize("first_label", [1, 70_000])
def test_fields_stay_registered(first_label):
    batches = host_batches(
        Coordinates(fields=("instances", "lr"), first_label=first_label),
        {"augmentation": {}},
        ("hr", "lr", "mask", "instances"),
        batch_size=32,
    )
    origins = set()
    for batch in take(batches, 3):
        assert {f: (a.shape, a.dtype) for f, a in batch.items()} == {
            "hr": ((32, 16, 16, 3), np.uint8),
            "lr": ((32, 4, 4, 3), np.uint8),
            "mask": ((32, 16, 16), np.uint8),
            "instances": ((32, 16, 16), np.int32),
        }
        assert_registered(batch, first_label)
        assert (batch["mask"] == 1).all()
        y, x = (batch["hr"][..., c].min(axis=(1, 2)).tolist() for c in (0, 1))
        origins |= set(zip(y, x, strict=True))
    assert len(origins) > 30
    batches.close()


def test_lr_is_the_degraded_crop():
    config = {"degradation": {"name": "bilinear"}}
    batches = host_batches(config=config)
    for batch in take(batches, 2):
        for hr, lr in zip(batch["hr"], batch["lr"], strict=True):
            np.testing.assert_array_equal(lr, resampling.downsample(hr, 4, "bilinear"))
    batches.close()


def test_a_saved_position_resumes_to_the_identical_batch():
    batches = host_batches()
    take(batches, 3)
    state = json.loads(json.dumps(batches.get_state()))
    expected = take(batches, 3)
    for resumed in (host_batches(), batches):
        resumed.set_state(state)
        assert resumed.get_state() == state
        assert_equal(take(resumed, 3), expected)
        resumed.close()
    other = host_batches(seed=1)
    other.set_state(state)
    assert (take(other, 1)[0]["hr"] != expected[0]["hr"]).any()
    other.close()


class Deadly(Coordinates):
    """A source that kills the process that reads its image `number`."""

    def __init__(self, number):
        super().__init__()
        self._number = number

    def __getitem__(self, index):
        if index == self._number:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.faults
def test_a_killed_worker_loses_no_batch(caplog):
    expected = take(host_batches(), 12)
    batches = host_batches(config={"workers": 1})
    got = take(batches, 2)
    for worker in multiprocessing.active_children():
        worker.kill()
    with caplog.at_level("WARNING"):
        got += take(batches, 10)
    batches.close()
    assert_equal(got, expected)
    assert re.search(r"batch \d+: .* exit code -9; starting the workers again", caplog.text)
    assert not multiprocessing.active_children()


@pytest.mark.faults
def test_a_batch_that_kills_its_workers_is_one_sentence():
    batches = host_batches(Deadly(2), {"workers": 1})
    with pytest.raises(UserError) as failure:
        take(batches, 50)
    assert re.fullmatch(
        r"config\.data\.workers=1: batch \d+ cannot be made \(.* exit code -9, twice; .*\): give "
        r"fewer workers, or 0 for threads",
        str(failure.value),
    )
    assert not multiprocessing.active_children()


WORKING = """
import multiprocessing, pathlib, sys, time
from tests.data.test_pipeline import host_batches
if __name__ == "__main__":
    batches = host_batches(config={"workers": 1})
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.faults
def test_workers_without_shared_memory_are_one_sentence(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline, "_single_threaded_children", full)
    expected = (
        r"config\.data\.workers=1 needs shared memory in /dev/shm \(No space left on device\): "
        r"mount it, or give 0 for threads"
    )
    with pytest.raises(UserError, match=expected):
        next(host_batches(config={"workers": 1}))


@pytest.mark.faults
@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOENT, "none", "a.png")]
)
def test_what_is_not_shared_memory_is_not_blamed_on_it(monkeypatch, error):
    def failing():
        raise error

    monkeypatch.setattr(pipeline, "_single_threaded_children", failing)
    with pytest.raises(OSError, match=error.strerror) as raised:
        next(host_batches(config={"workers": 1}))
    assert raised.value is error


@pytest.mark.faults
def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path):
    script = tmp_path / "working.py"
    script.write_text(WORKING)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        worker = int(run.stdout.readline())
        os.kill(worker, 0)
        run.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie waits for whoever adopted it, and holds nothing


def test_workers_give_what_threads_give(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = host_batches()
    expected = take(threads, 5)
    threads.close()
    workers = host_batches(config={"workers": 2})
    assert_equal(take(workers, 3), expected[:3])
    assert "OMP_NUM_THREADS" not in os.environ
    state = workers.get_state()
    workers.set_state(state)  # stops those that run
    assert not multiprocessing.active_children()
    workers.close()
    resumed = host_batches(config={"workers": 1})
    resumed.set_state(state)
    assert_equal(take(resumed, 2), expected[3:])
    resumed.close()


def test_processes_make_the_batches_of_one():
    whole = host_batches(batch_size=6)
    expected = take(whole, 4)
    position = whole.get_state()
    more = take(whole, 1)
    whole.close()
    parts = [
        host_batches(batch_size=2, process_index=process, process_count=3) for process in range(3)
    ]
    got = [take(part, 4) for part in parts]
    assert_equal(joined(got), expected)
    # Also from where a run of another number of processes has stopped.
    for part in parts:
        part.set_state(position)
    assert_equal(joined([take(part, 1) for part in parts]), more)
    for part in parts:
        part.close()


def joined(parts):
    """The batches of all processes, from the rows of each."""
    return [
        {field: np.concatenate([part[field] for part in step]) for field in step[0]}
        for step in zip(*parts, strict=True)
    ]


def test_every_epoch_visits_every_image_once():
    order = ImageOrder(7, seed=3)
    epochs = np.array([order[i] for i in range(70)]).reshape(10, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (10, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 5
    assert [order[i] for i in range(70)] != [ImageOrder(7, seed=4)[i] for i in range(70)]
    # Far beyond 32 bits, where a long run may come to stand.
    assert order[7 * 2**33] in range(7)


def test_a_visit_gives_its_crops_near_each_other():
    order = ImageOrder(160, seed=0, crops_per_image=4)
    places = [order[i] for i in range(640)]
    assert np.bincount(places).tolist() == [4] * 160
    # Blocks of 16 visits are mixed: one block holds 16 images, 4 times each, out of order.
    block = places[:64]
    assert sorted(np.bincount(block)[np.unique(block)].tolist()) == [4] * 16
    assert block[0:4] != [block[0]] * 4


def test_zoom_resamples_image_and_labels_together():
    config = {
        "augmentation": {"zoom": (2.0, 2.0), "flips": False, "rotations": False},
        "crop": 32,
    }
    batches = host_batches(config=config, fields=("hr", "instances"))
    for batch in take(batches, 2):
        assert batch["hr"].shape == (4, 32, 32, 3)
        # 16 pixels of the image are 32 here: every label covers 2 x 2, and the image keeps pace.
        labels = batch["instances"]
        np.testing.assert_array_equal(labels[:, ::2, ::2].repeat(2, 1).repeat(2, 2), labels)
        rows = (labels - 1) // 64
        assert np.abs(batch["hr"][..., 0].astype(int) - rows).max() <= 1
    batches.close()


def test_turned_crops_stay_registered():
    source = Coordinates(fields=("instances",))
    turned = {"rotate": 45.0, "translate": 0.1}
    batch = take(
        host_batches(source, {"augmentation": turned, "degradation": {}}, ("hr", "instances")), 1
    )[0]
    assert batch["hr"].shape == (4, 16, 16, 3)
    # Each pixel tells its place, in the image and in the labels: bilinear and nearest are within
    # a pixel of each other, but where black was mixed in.
    labels = batch["instances"].astype(int)
    inside = scipy.ndimage.minimum_filter(labels, (1, 3, 3)) > 0
    assert inside.mean() > 0.3
    place = np.stack([(labels - 1) // 64, (labels - 1) % 64], -1)
    off = np.abs(batch["hr"][..., :2].astype(int) - place)[inside]
    assert off.max() <= 1
    # Turned: no row of a crop shows one row of its image.
    assert (np.ptp(place[..., 0], axis=2)[inside.all(axis=2)] > 0).all()
    again = take(
        host_batches(source, {"augmentation": turned, "degradation": {}}, ("hr", "instances")), 1
    )
    assert_equal(again, [batch])


@pytest.mark.faults
def test_turning_is_refused_where_it_cannot_be_done():
    turned = {"augmentation": {"rotate": 10.0}, "degradation": {}, "placement": "device"}
    with pytest.raises(UserError, match=r"rotate and translate run on the host only"):
        host_batches(config=turned)
    with pytest.raises(UserError, match=r"rotate and translate cannot be used with real lr images"):
        host_batches(Coordinates(fields=("lr",)), {"augmentation": {"translate": 0.1}})


@pytest.mark.faults
def test_glass_is_refused_beside_real_lr_images():
    with pytest.raises(UserError, match=r"glass cannot be used with real lr images"):
        host_batches(Coordinates(fields=("lr",)), {"augmentation": {"glass": 0.1}})


def test_dulled_crops_keep_their_labels():
    config = {"degradation": {}, "augmentation": {"coarse": (4.0, 4.0)}}
    fields = ("hr", "instances")
    plain = take(host_batches(config={"degradation": {}, "augmentation": {}}, fields=fields), 2)
    dull = take(host_batches(config=config, fields=fields), 2)
    for sharp, soft in zip(plain, dull, strict=True):
        places = [(batch["instances"] - 1) // 64 for batch in (sharp, soft)]
        # The rows of the source are a ramp, which a linear kernel keeps but for the borders.
        assert (
            np.abs(soft["hr"][:, 4:-4, 4:-4, 0].astype(int) - places[1][:, 4:-4, 4:-4]).max() <= 1
        )
        assert sharp["hr"].shape == soft["hr"].shape
    with pytest.raises(UserError, match="coarse and jpeg_quality run on the host only"):
        host_batches(config={**config, "placement": "device"}, fields=fields)


def test_placement_is_chosen_and_refused():
    device = host_batches(config={"placement": "device", "degradation": {}})
    assert isinstance(device, DeviceBatches)
    assert next(device)["lr"].shape == (4, 4, 4, 3)
    assert isinstance(host_batches(), HostBatches)
    # The tests run on the CPU, where auto stays on the host.
    assert isinstance(host_batches(config={"placement": "auto"}), HostBatches)
    for config, match in (
        ({}, "JPEG"),
        ({"degradation": {"name": "second_order"}}, "'second_order' runs on the host only"),
        ({"degradation": {}, "augmentation": {"zoom": (0.8, 1.25)}}, "zoom"),
        ({"degradation": {}, "device_bytes": 1000}, "device_bytes=1000"),
    ):
        with pytest.raises(UserError, match=match):
            host_batches(config={**config, "placement": "device"})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("config", "seed", "match"),
    [
        ({"placement": "gpu"}, 0, r"placement='gpu' is .*one of auto, host, device"),
        ({"workers": -1}, 0, "workers=-1"),
        ({"crops_per_image": 0}, 0, "crops_per_image=0"),
        ({}, 2**32, "seed=4294967296"),
        ({}, -1, "seed=-1"),
    ],
)
def test_bad_values_are_refused(config, seed, match):
    with pytest.raises(UserError, match=match):
        pipeline.check({**CONFIG, **config}, seed)


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unusable_image_ends_the_stream_with_its_name(workers):
    source = Coordinates(sizes=((40, 40), (12, 40)))
    batches = host_batches(source, {"workers": workers})
    with pytest.raises(UserError, match="'image1' is 12x40"):
        take(batches, 3)
    batches.close()


class Blank:
    """Black, grey and white images without nuclei."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {
            "name": "blank",
            "hr": np.full((24, 20, 3), (0, 128, 255)[index], np.uint8),
            "instances": np.zeros((24, 20), np.int32),
        }


@pytest.mark.faults
@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("light", [{}, {"brightness": 0.1, "contrast": 0.2}])
def test_one_color_stays_one_color_through_every_step(light, placement):
    """A blurred, reduced and recoloured constant is a constant, and white glass stays white."""
    never = dict.fromkeys(("noise_probability", "photons_probability", "jpeg_probability"), 0.0)
    steps = {"name": "microscope", **never}
    zoom = (0.8, 1.25) if placement == "host" else (1.0, 1.0)
    colors = {"stain_sigma": 0.4, "stain_bias": 0.1, "zoom": zoom, **light}
    config = {"placement": placement, "degradation": steps, "augmentation": colors}
    batch = next(host_batches(Blank(), config, ("hr", "lr", "mask"), batch_size=15))
    hr, lr = np.asarray(batch["hr"]), np.asarray(batch["lr"])
    assert not np.asarray(batch["mask"]).any()
    np.testing.assert_array_equal(hr, np.broadcast_to(hr[:, :1, :1], hr.shape))
    np.testing.assert_array_equal(lr, np.broadcast_to(hr[:, :1, :1], lr.shape))
    if not light:
        # Every third image is white.
        assert (hr == 255).all((1, 2, 3)).sum() == 5
