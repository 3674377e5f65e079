import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from histojax.data import augmentation
from histojax.data.degradation_steps import jpeg
from histojax.data.sources import targets
from histojax.errors import UserError
from histojax.imaging import resampling
from histojax.stain import hed

SQUARE = np.arange(9).reshape(3, 3)


def test_dihedral_gives_the_eight_symmetries():
    rotations = [np.rot90(SQUARE, k) for k in range(4)]
    expected = {image.tobytes() for r in rotations for image in (r.copy(), r[::-1].copy())}
    assert {augmentation.dihedral(SQUARE, i).tobytes() for i in range(8)} == expected
    assert len(expected) == 8
    np.testing.assert_array_equal(augmentation.dihedral(SQUARE, 0), SQUARE)
    np.testing.assert_array_equal(augmentation.dihedral(SQUARE, 3), np.rot90(SQUARE, 2))
    quarter_turns = {augmentation.dihedral(SQUARE, i).tobytes() for i in (5, 6)}
    assert quarter_turns == {np.rot90(SQUARE, k).tobytes() for k in (1, 3)}


@pytest.mark.parametrize(("flips", "rotations"), list(itertools.product([True, False], repeat=2)))
def test_what_is_switched_on_is_a_group(flips, rotations):
    drawn = augmentation.symmetries(augmentation.Augmentation(flips=flips, rotations=rotations))
    assert len(drawn) == {0: 1, 1: 4, 2: 8}[flips + rotations]
    images = {augmentation.dihedral(SQUARE, i).tobytes() for i in drawn}
    products = {
        augmentation.dihedral(augmentation.dihedral(SQUARE, i), j).tobytes()
        for i in drawn
        for j in drawn
    }
    assert products == images
    if rotations and not flips:
        assert images == {np.rot90(SQUARE, k).tobytes() for k in range(4)}


@pytest.mark.parametrize("index", range(8))
def test_dihedral_is_the_same_on_device_and_before_reduction(index):
    hr = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        jax.jit(augmentation.dihedral)(hr, index), augmentation.dihedral(hr, index)
    )
    labels = np.arange(1024, dtype=np.int32).reshape(32, 32)
    np.testing.assert_array_equal(
        augmentation.dihedral(jnp.asarray(labels), index), augmentation.dihedral(labels, index)
    )
    box = resampling.downsample(hr.astype(np.float32), 4, "box")
    moved = resampling.downsample(augmentation.dihedral(hr, index).astype(np.float32), 4, "box")
    np.testing.assert_allclose(moved, augmentation.dihedral(box, index), atol=1e-4)


def test_flips_may_be_from_left_to_right_alone():
    drawn = augmentation.symmetries(
        augmentation.Augmentation(vertical_flips=False, rotations=False)
    )
    images = {augmentation.dihedral(SQUARE, index).tobytes() for index in drawn}
    assert images == {SQUARE.tobytes(), SQUARE[:, ::-1].copy().tobytes()}
    # With quarter turns that makes all eight.
    assert len(augmentation.symmetries(augmentation.Augmentation(vertical_flips=False))) == 8


ALL = augmentation.Augmentation(stain_sigma=0.2, stain_bias=0.1, brightness=0.1, contrast=0.2)


def example(size=32):
    rng = np.random.default_rng(0)
    instances = rng.integers(0, 70_000, (size, size), dtype=np.int32)
    return {
        "hr": rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        "lr": rng.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8),
        "instances": instances,
        "mask": (instances > 35_000).astype(np.uint8),
    }


def test_labels_move_with_the_image_and_keep_their_values():
    fields = example()
    y, x = np.indices((32, 32))
    fields["hr"] = np.stack([y, x, y], axis=-1).astype(np.uint8)
    for index in range(8):
        moved = augmentation.apply(fields, {"dihedral": index}, augmentation.Augmentation())
        at = moved["hr"][..., 0], moved["hr"][..., 1]
        np.testing.assert_array_equal(moved["instances"], fields["instances"][at])
        np.testing.assert_array_equal(moved["mask"], fields["mask"][at])
        assert {f: (a.shape, a.dtype) for f, a in moved.items()} == {
            f: (a.shape, a.dtype) for f, a in fields.items()
        }


@pytest.mark.parametrize("seed", range(3))
def test_host_and_device_agree_for_equal_parameters(seed):
    fields = example()
    parameters = augmentation.sample_parameters(ALL, np.random.default_rng(seed))
    on_host = augmentation.apply(fields, parameters, ALL)
    on_device = jax.jit(lambda f, p: augmentation.apply(f, p, ALL))(fields, parameters)
    for name in ("instances", "mask"):
        np.testing.assert_array_equal(on_host[name], on_device[name])
    for name in ("hr", "lr"):
        assert on_device[name].dtype == np.uint8
        difference = np.abs(on_host[name].astype(int) - np.asarray(on_device[name]))
        # Stain and light round once each.
        assert difference.max() <= 2
        assert difference.mean() < 0.01
        assert (on_host[name] != augmentation.dihedral(fields[name], parameters["dihedral"])).any()


def test_one_image_and_its_lr_get_one_color():
    fields = example()
    fields["lr"] = fields["hr"][:8, :8]
    parameters = {**augmentation.sample_parameters(ALL, np.random.default_rng(0)), "dihedral": 0}
    moved = augmentation.apply(fields, parameters, ALL)
    np.testing.assert_array_equal(moved["lr"], moved["hr"][:8, :8])


def test_nothing_switched_on_changes_nothing():
    fields = example()
    parameters = augmentation.sample_parameters(augmentation.NONE, np.random.default_rng(0))
    assert parameters["zoom"] == 1
    np.testing.assert_array_equal(parameters["alpha"], 1)
    for name, array in augmentation.apply(fields, parameters, augmentation.NONE).items():
        np.testing.assert_array_equal(array, fields[name])


def test_drawn_parameters_fill_their_ranges():
    wide = augmentation.Augmentation(stain_sigma=0.3, brightness=0.1, contrast=0.2, zoom=(0.5, 2.0))
    rng = np.random.default_rng(0)
    host = [augmentation.sample_parameters(wide, rng) for _ in range(4000)]
    host = {name: np.stack([p[name] for p in host]) for name in host[0]}
    keys = jax.random.split(jax.random.key(0), 4000)
    device = jax.jit(jax.vmap(lambda key: augmentation.sample_parameters(wide, key)))(keys)
    for drawn in (host, device):
        counts = np.bincount(np.asarray(drawn["dihedral"]), minlength=8)
        assert counts.shape == (8,)
        assert counts.min() > 400
        gain, shift, zoom = (np.asarray(drawn[n]) for n in ("gain", "shift", "zoom"))
        assert 0.8 <= gain.min() < 0.81 < 1.19 < gain.max() <= 1.2
        assert -0.1 <= shift.min() < -0.09 < 0.09 < shift.max() <= 0.1
        assert 0.5 <= zoom.min() < 0.51 < 1.95 < zoom.max() <= 2.0
        # As often larger as smaller.
        assert np.median(zoom) == pytest.approx(1, abs=0.05)
        assert np.ptp(np.asarray(drawn["alpha"])) > 0.5
    only_turns = augmentation.Augmentation(flips=False)
    turned = jax.jit(jax.vmap(lambda key: augmentation.sample_parameters(only_turns, key)))(keys)
    assert set(np.asarray(turned["dihedral"]).tolist()) == {0, 3, 5, 6}


def test_origins_cover_the_image_on_the_grid():
    rng = np.random.default_rng(0)
    host = np.stack([augmentation.sample_origin(rng, 50, 40, 32, 4) for _ in range(500)])
    keys = jax.random.split(jax.random.key(0), 500)
    device = jax.jit(
        lambda height, width: jax.vmap(
            lambda k: augmentation.sample_origin(k, height, width, 32, 4)
        )(keys)
    )(50, 40)
    for origins in (host, np.asarray(device)):
        assert set(origins[:, 0].tolist()) == {0, 4, 8, 12, 16}
        assert set(origins[:, 1].tolist()) == {0, 4, 8}
    np.testing.assert_array_equal(augmentation.sample_origin(rng, 32, 32, 32), (0, 0))


def test_light_about_mid_gray():
    image = np.array([[[0, 127, 255]]], np.uint8)
    # (0 - 127.5) / 2 + 127.5 + 25.5 = 89.25; (127 - 127.5) / 2 + 153 = 152.75; 63.75 + 153 = 216.75
    for namespace in (np, jnp):
        got = augmentation.light(
            namespace.asarray(image), {"gain": np.float32(0.5), "shift": np.float32(0.1)}
        )
        np.testing.assert_array_equal(got, [[[89, 153, 217]]])
        got = augmentation.light(
            namespace.asarray(image), {"gain": np.float32(2), "shift": np.float32(0)}
        )
        np.testing.assert_array_equal(got, [[[0, 127, 255]]])


def test_density_of_each_channel():
    image = np.array([[[0, 51, 255], [51, 51, 51]]], np.uint8)
    # 255 * 0.2^2 = 10.2, 255 * 0.2^0.5 = 114.04: twice and half of the optical density.
    for namespace in (np, jnp):
        got = augmentation.tint(namespace.asarray(image), {"density": np.float32([1.0, 2.0, 0.5])})
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, [[[0, 10, 255], [51, 10, 114]]])


@pytest.mark.parametrize("namespace", [np, jnp])
def test_glass_covers_what_lies_beyond_its_line_with_its_labels(namespace):
    labels = np.arange(1, 65, dtype=np.int32).reshape(8, 8)
    maps = ("mask", *targets.MAPS)
    example = {"hr": np.full((8, 8, 3), 90, np.uint8), "instances": labels}
    example[targets.TISSUE] = example["hr"]
    example |= {name: np.full((8, 8), 7, np.uint8) for name in ("labelled", *maps)}
    example = {name: namespace.asarray(array) for name, array in example.items()}
    # A fourth of a crop right of the middle: columns 6 and 7 of 8.
    right = {"glass": namespace.asarray(np.float32([0.25, 0.0, 240.4, 230, 249.6]))}
    got = augmentation.covered(example, right)
    assert got["hr"].dtype == np.uint8
    np.testing.assert_array_equal(got["hr"][:, 6:], np.full((8, 2, 3), [240, 230, 250]))
    np.testing.assert_array_equal(got["hr"][:, :6], 90)
    np.testing.assert_array_equal(got["instances"], np.where(np.arange(8) < 6, labels, 0))
    np.testing.assert_array_equal(got[targets.TISSUE], got["hr"])
    for name in maps:
        assert got[name].dtype == np.uint8
        np.testing.assert_array_equal(got[name], np.broadcast_to(7 * (np.arange(8) < 6), (8, 8)))
    np.testing.assert_array_equal(got["labelled"], 7)
    # The normal turned by a quarter points down.
    below = {"glass": namespace.asarray(np.float32([0.25, np.pi / 2, 240, 230, 250]))}
    rows = augmentation.covered(example, below)["instances"]
    np.testing.assert_array_equal(rows, np.where(np.arange(8)[:, None] < 6, labels, 0))


def test_glass_comes_at_its_rate_on_host_and_device():
    some = augmentation.Augmentation(glass=0.25)
    rng = np.random.default_rng(0)
    host = [augmentation.sample_parameters(some, rng)["glass"] for _ in range(4000)]
    keys = jax.random.split(jax.random.key(0), 4000)
    device = jax.vmap(lambda k: augmentation.sample_parameters(some, k)["glass"])(keys)
    for drawn in (np.stack(host), np.asarray(device)):
        near = np.abs(drawn[:, 0]) <= 0.6
        assert near.mean() == pytest.approx(0.25, abs=0.03)
        assert drawn[near, 0].min() < -0.58
        assert drawn[near, 0].max() > 0.58
        assert drawn[:, 2:].min() >= 225
        assert drawn[:, 2:].max() <= 250
    # A crop without glass stays as it is.
    image = {"hr": np.full((4, 4, 3), 90, np.uint8)}
    none = next(glass for glass in host if glass[0] > 1)
    np.testing.assert_array_equal(augmentation.covered(image, {"glass": none})["hr"], 90)


def test_densities_fill_their_range_each_by_itself():
    tints = augmentation.Augmentation(channel_density=(0.5, 2.0))
    rng = np.random.default_rng(0)
    host = [augmentation.sample_parameters(tints, rng)["density"] for _ in range(4000)]
    keys = jax.random.split(jax.random.key(0), 4000)
    device = jax.vmap(lambda k: augmentation.sample_parameters(tints, k)["density"])(keys)
    for drawn in (np.array(host), np.asarray(device)):
        assert 0.5 <= drawn.min() < 0.51 < 1.95 < drawn.max() <= 2.0
        assert np.median(drawn) == pytest.approx(1, abs=0.05)
        np.testing.assert_allclose(np.corrcoef(np.log(drawn.T)), np.eye(3), atol=0.06)
    # What is drawn without it stays what it is.
    plain = augmentation.sample_parameters(augmentation.Augmentation(), np.random.default_rng(3))
    tinted = augmentation.sample_parameters(tints, np.random.default_rng(3))
    for name, value in plain.items():
        np.testing.assert_array_equal(tinted[name], value)


def test_resample_keeps_labels_whole():
    labels = np.arange(16, dtype=np.int32).reshape(4, 4) * 1000
    np.testing.assert_array_equal(
        augmentation.resample(labels, 8), labels.repeat(2, 0).repeat(2, 1)
    )
    np.testing.assert_array_equal(augmentation.resample(labels, 2), labels[1::2, 1::2])
    image = np.full((5, 5, 3), 77, np.uint8)
    np.testing.assert_array_equal(augmentation.resample(image, 8), np.full((8, 8, 3), 77))


def test_config_is_read_and_checked():
    read = augmentation.Augmentation.from_config({"flips": False, "zoom": [0.8, 1.25]})
    assert read == augmentation.Augmentation(flips=False, zoom=(0.8, 1.25))
    assert read.zooms
    assert not augmentation.Augmentation.from_config(None).zooms
    hash(read)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"flip": True}, "augmentation.flip is not known.*flips"),
        ({"flips": 1}, "flips=1"),
        ({"vertical_flips": 0}, "vertical_flips=0 has to be True or False"),
        ({"stain_sigma": 1.0}, "stain_sigma=1.0"),
        ({"stain_bias": -0.1}, "stain_bias=-0.1"),
        ({"zoom": (1.2, 0.8)}, r"zoom=\(1.2, 0.8\)"),
        ({"zoom": 2.0}, "zoom=2.0"),
        ({"channel_density": (0.0, 1.0)}, r"channel_density=\(0\.0, 1\.0\) .* from 0\.01 to 10"),
        ({"glass": 1.5}, "glass=1.5 has to be a probability from 0 to 1"),
        ({"rotate": 181}, "rotate=181 has to be a number of degrees from 0 to 180"),
        ({"translate": 1.0}, "translate=1.0"),
        ({"coarse": (0.5, 1.0)}, r"coarse=\(0.5, 1.0\) .* from 1 to 8"),
        ({"jpeg_quality": 60}, "jpeg_quality=60 has to be two numbers"),
    ],
)
def test_bad_config_is_refused(config, match):
    with pytest.raises(UserError, match=match):
        augmentation.Augmentation.from_config(config)


def test_stain_jitter_is_the_stain_modules():
    fields = example()
    only = augmentation.Augmentation(stain_sigma=0.2)
    parameters = {**augmentation.sample_parameters(only, np.random.default_rng(0)), "dihedral": 0}
    np.testing.assert_array_equal(
        augmentation.apply(fields, parameters, only)["hr"], hed.jitter(fields["hr"], parameters)
    )


def test_a_square_that_is_not_turned_is_a_crop():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    labels = np.arange(2000, dtype=np.int32).reshape(40, 50) * 1000
    for array in (image, labels, labels.astype(np.uint8)):
        got = augmentation.warped(array, (4 + 8, 10 + 8), 0.0, 16, 16)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array[4:20, 10:26])


def test_a_quarter_turn_is_numpys():
    labels = np.arange(256, dtype=np.int32).reshape(16, 16)
    got = augmentation.warped(labels, (8, 8), np.pi / 2, 16, 16)
    # The square is turned clockwise, so what is in it turns the other way.
    np.testing.assert_array_equal(got, np.rot90(labels, 1))


def test_outside_is_black_and_a_larger_side_shows_more():
    image = np.full((16, 16, 3), 200, np.uint8)
    shifted = augmentation.warped(image, (8, 16), 0.0, 16, 16)
    assert (shifted[:, :8] == 200).all()
    assert (shifted[:, 8:] == 0).all()
    labels = np.repeat(np.repeat(np.arange(1, 5).reshape(2, 2), 8, 0), 8, 1)
    half = augmentation.warped(labels, (8, 8), 0.0, 16, 8)
    np.testing.assert_array_equal(half, labels[::2, ::2])


def test_images_and_labels_turn_together():
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(y - 20, x - 30) <= 6
    image = np.repeat((255 * disc)[..., None], 3, -1).astype(np.uint8)
    for angle in (0.3, -1.2):
        moved = augmentation.warped(image, (30, 30), angle, 48, 48)[..., 0] > 127
        labels = augmentation.warped(disc.astype(np.int32), (30, 30), angle, 48, 48) > 0
        assert (moved != labels).sum() <= 0.1 * labels.sum()
        assert labels.sum() == pytest.approx(disc.sum(), rel=0.05)


def test_angles_and_offsets_fill_their_ranges_alone():
    warping = augmentation.Augmentation(rotate=30.0, translate=0.2)
    rng = np.random.default_rng(0)
    drawn = [augmentation.sample_parameters(warping, rng) for _ in range(1000)]
    angles = np.rad2deg([p["angle"] for p in drawn])
    offsets = np.array([p["offset"] for p in drawn])
    assert -30 <= angles.min() < -29.5 < 29.5 < angles.max() <= 30
    assert offsets.shape == (1000, 2)
    assert -0.2 <= offsets.min() < -0.198 < 0.198 < offsets.max() <= 0.2
    assert "angle" not in augmentation.sample_parameters(augmentation.NONE, rng)


DULL = augmentation.Augmentation(coarse=(1.0, 2.0), jpeg_quality=(60, 63))


def test_detail_finer_than_the_factor_is_lost_of_hr_alone():
    checks = (np.indices((32, 32)).sum(0) % 2 * 200).astype(np.uint8)
    fields = {"hr": np.repeat(checks[..., None], 3, -1), "instances": checks.astype(np.int32)}
    half = {"dihedral": 0, "coarse": 2.0, "kernel": "bilinear", "jpeg_quality": 0}
    dulled = augmentation.apply(fields, half, DULL)
    # Every 2 x 2 pixels have a mean of 100; the borders cut the kernel.
    assert np.abs(dulled["hr"][4:-4, 4:-4].astype(int) - 100).max() <= 1
    np.testing.assert_array_equal(dulled["instances"], fields["instances"])
    same = augmentation.apply(fields, half | {"coarse": 1.0}, DULL)
    np.testing.assert_array_equal(same["hr"], fields["hr"])


def test_jpeg_comes_after_the_loss_of_detail():
    hr = example()["hr"]
    half = {"coarse": 2.0, "kernel": "bicubic", "jpeg_quality": 60}
    image = Image.fromarray(hr).resize((16, 16), Image.Resampling.BICUBIC)
    expected = jpeg(np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)), 60)
    np.testing.assert_array_equal(augmentation.dulled(hr, half), expected)


def test_losses_fill_their_ranges_and_are_drawn_after_all_else():
    rng = np.random.default_rng(0)
    drawn = [augmentation.sample_parameters(DULL, rng) for _ in range(2000)]
    coarse = np.array([parameters["coarse"] for parameters in drawn])
    assert 1 <= coarse.min() < 1.01 < 1.99 < coarse.max() <= 2
    assert np.median(coarse) == pytest.approx(2**0.5, abs=0.04)
    assert np.mean([p["kernel"] == "bicubic" for p in drawn]) == pytest.approx(0.5, abs=0.04)
    qualities = np.array([parameters["jpeg_quality"] for parameters in drawn])
    assert (qualities > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert set(qualities.tolist()) == {0, 60, 61, 62, 63}
    only = augmentation.Augmentation(coarse=(1.0, 2.0))
    assert {augmentation.sample_parameters(only, rng)["jpeg_quality"] for _ in range(50)} == {0}
    # What is drawn without them stays what it is.
    for seed in range(5):
        plain = augmentation.sample_parameters(
            augmentation.Augmentation(), np.random.default_rng(seed)
        )
        dull = augmentation.sample_parameters(DULL, np.random.default_rng(seed))
        for name, value in plain.items():
            np.testing.assert_array_equal(dull[name], value)


def test_a_share_of_the_crops_is_zoomed():
    some = augmentation.Augmentation(zoom=(1.5, 2.0), zoom_probability=0.25)
    rng = np.random.default_rng(0)
    zooms = np.array([augmentation.sample_parameters(some, rng)["zoom"] for _ in range(2000)])
    assert set(zooms[zooms < 1.5]) == {1.0}
    assert np.mean(zooms > 1) == pytest.approx(0.25, abs=0.03)
    with pytest.raises(UserError, match=r"zoom_probability=1\.5 has to be a probability"):
        augmentation.Augmentation(zoom_probability=1.5)
