"""Structure and arithmetic of the benchmark; how long anything takes is never tested."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import generator, joint, srgan
from histojax.config import to_values
from histojax.data import cores
from histojax.errors import UserError
from histojax.models.generators.resnext import ResNeXt
from histojax.training import sharding
from launch import (
    benchmark_grouped,
    benchmark_instances,
    benchmark_postprocessing,
    benchmark_stages,
    benchmark_streaming,
    benchmark_synthesis,
    benchmark_tables,
    benchmark_timing,
)
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
TINY = dict(blocks=1, features=8, width=16, cardinality=4, head_kernel=3, tail_kernel=3)


def smoke(module):
    return to_values(module.get_config("smoke"))


def test_first_run_warms_up():
    calls = []
    spent = benchmark_timing.repeated(lambda: calls.append(0), 4)
    assert len(calls) == 5
    assert spent["repeats"] == 4
    assert 0 < spent["seconds_10"] <= spent["seconds"] <= spent["seconds_90"]


def test_slow_first_run_is_the_only_one():
    calls = []
    spent = benchmark_timing.repeated(lambda: calls.append(0), 4, patience=0.0)
    assert len(calls) == spent["repeats"] == 1
    assert spent["seconds_10"] == spent["seconds"] == spent["seconds_90"] > 0


def test_patience_ends_the_repeats_but_for_one():
    calls = []

    def run():
        calls.append(0)
        time.sleep(0.05)

    # The warm-up takes most of the patience, and the one run that has to follow the rest.
    assert benchmark_timing.repeated(run, 10_000, patience=0.09)["repeats"] < 10
    assert len(calls) >= 2


def test_compiled_program_is_counted_and_runs():
    a, b = jnp.ones((32, 64)), jnp.ones((64, 16))
    program, measured = benchmark_timing.compiled(jax.jit(jnp.matmul), a, b)
    np.testing.assert_array_equal(program(a, b), np.full((32, 16), 64.0))
    assert measured["flop"] == 2 * 32 * 64 * 16
    assert measured["planned_bytes"] >= 4 * (32 * 64 + 64 * 16 + 32 * 16)
    assert measured["compile_seconds"] > 0


def test_compilation_cache_is_as_before():
    before = jax.config.jax_enable_compilation_cache
    benchmark_timing.compiled(jax.jit(jnp.sin), jnp.ones(3))
    assert jax.config.jax_enable_compilation_cache == before


def test_matmul_peak_is_positive_on_every_device():
    mesh = sharding.data_mesh()
    assert benchmark_timing.matmul_peak(mesh, jnp.float32, size=16, repeats=2) > 0
    assert benchmark_timing.matmul_peak(mesh, jnp.bfloat16, size=16, repeats=2) > 0


def test_peak_memory_holds_what_was_freed():
    before = benchmark_timing.process_peak_bytes()
    code = (
        "import numpy as np\n"
        "from launch.benchmark_timing import process_peak_bytes\n"
        "before = process_peak_bytes()\n"
        "np.ones(2**28, np.uint8)\n"
        "print(before, process_peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    first, last = map(int, done.stdout.split())
    # 2**28 bytes lay beside what the process held, which is no more than its first peak.
    assert first < last < first + 2**28 + 2**24
    assert last >= 2**28
    assert before > 2**24


def test_process_that_dies_is_a_users_error():
    with pytest.raises(UserError, match="_exit was killed, most likely for memory"):
        benchmark_timing.apart(os._exit, 1)


def test_step_of_a_stage():
    values = smoke(generator)
    row = benchmark_stages.measure_step(values, steps=2, seconds=0.05, matmul_size=16)
    assert row["batch_size"] == values["data"]["batch_size"]
    assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
    assert row["repeats"] == row["together"]["steps"] == 2
    # Four groups run as one dense kernel cost more than what they ask for.
    assert row["flop"] > row["flop_grouped"] > 0
    assert row["share_of_peak"] == pytest.approx(row["flop"] / row["seconds"] / row["peak_flops"])
    assert row["dtype"] == "float32"
    assert row["peak_of"] == "process"
    assert row["peak_bytes"] > row["planned_bytes"] > 0
    for rate in (row["input"]["pairs_per_second"], row["together"]["images_per_second"]):
        assert rate > 0
    slower = row["input"]["pairs_per_second"] < row["images_per_second"]
    assert row["bottleneck"] == ("input" if slower else "step")


def test_step_refuses_a_batch_that_devices_cannot_share():
    values = smoke(generator)
    values["data"]["batch_size"] = 9
    with pytest.raises(UserError, match=r"data\.batch_size=9 has to be a multiple of the 8"):
        benchmark_stages.measure_step(values, steps=1, seconds=0.0)


def test_flop_of_the_grouped_form_follow_the_cardinality():
    config = generator.get_config("smoke")
    flop = benchmark_stages._flop_grouped(config)
    config.generator.cardinality = 1
    # One group: each of a pixel's 32 outputs reads 9 x 32 inputs instead of 9 x 8, at 2 FLOP, in
    # the forward pass and both gradients; what falls outside the image is not counted.
    added = benchmark_stages._flop_grouped(config) - flop
    pixels = config.data.batch_size * (config.data.crop // config.data.scale) ** 2
    most = 3 * 2 * 9 * 24 * 32 * pixels
    assert 0.8 * most < added < 1.05 * most


def test_feature_loss_gets_an_untrained_encoder():
    stage = benchmark_stages.untrained_stage(srgan.get_config("smoke"))
    assert stage.content.network.name == "segmenter"


def test_input_has_a_row_for_every_way():
    values = smoke(joint)
    values["data"]["placement"] = "device"
    rows = benchmark_stages.measure_input(values, workers=[0], seconds=0.05)
    assert [(row["placement"], row["workers"]) for row in rows] == [("host", 0), ("device", 0)]
    for row in rows:
        assert row["fields"] == ["lr", "hr", "mask"]
        assert row["pairs_per_second"] > 0
        assert row["batches"] >= 2


def test_inference_of_every_network():
    rows = benchmark_stages.measure_inference(smoke(joint), size=64, repeats=2)
    assert list(rows) == ["enhance", "segment", "predict"]
    for row in rows.values():
        assert row["size"] == 64
        assert row["megapixels_per_second"] == pytest.approx(64**2 / 1e6 / row["seconds"])
    assert rows["enhance"]["core"] == 16
    assert rows["segment"]["core"] == 64


def test_form_and_pytorch_train_the_same_network():
    values = to_values(benchmark_grouped.paper_config(crop=32, **TINY))
    row = benchmark_grouped.measure_form(values, form="auto", batch_size=2, repeats=2)
    assert (row["form"], row["batch_size"], row["repeats"]) == ("merged", 2, 2)
    assert min(row["seconds"], row["cpu_seconds"], row["flop"], row["peak_bytes"]) > 0
    other = benchmark_grouped.measure_torch(values, batch_size=2, repeats=2)
    if "skipped" not in other:
        assert other["parameters"] == row["parameters"]
        assert min(other["seconds"], other["cpu_seconds"]) > 0
        assert other["threads"] == len(cores.usable())


def grouped_row(seconds, form="merged", batch_size=1):
    spent = dict.fromkeys(("seconds", "seconds_10", "seconds_90"), seconds)
    return {
        **{"form": form, "batch_size": batch_size, "parameters": 10, "repeats": 1, **spent},
        **{"cpu_seconds": 2 * seconds, "compile_seconds": 1.0, "flop": None},
        **{"peak_bytes": 2**20, "peak_of": "device"},
    }


def test_ratios_are_between_equal_batches(monkeypatch):
    seconds = {("auto", 4): 6.0, ("auto", 1): 2.0, ("grouped", 1): 30.0, "torch": 3.0}

    def apart(function, values, *, batch_size, repeats, form=None, trains):
        assert trains
        if function is benchmark_grouped.measure_torch:
            row = grouped_row(seconds["torch"], batch_size=batch_size)
            without = ("form", "compile_seconds", "flop")
            return {**{k: v for k, v in row.items() if k not in without}, "cpu_seconds": 1.5}
        return grouped_row(seconds[form, batch_size], form, batch_size)

    monkeypatch.setattr(benchmark_timing, "apart", apart)
    made = benchmark_grouped.measure(batch_size=4, naive_batch_size=1, repeats=1)
    assert [row["batch_size"] for row in made["used"]] == [4, 1]
    (naive,) = made["others"]
    assert naive["times_slower"] == naive["times_slower_cpu"] == 30 / 2
    assert made["torch"]["times_faster"] == 6 / 3
    assert made["torch"]["times_faster_cpu"] == 12 / 1.5
    assert made["network"]["blocks"] == 16
    lines = benchmark_tables.tables({**circumstances(), "grouped": made}).splitlines()
    assert [line.split()[0] for line in lines[5:]] == ["auto", "auto", "grouped", "PyTorch"]
    assert "15.00" in lines[7].split()
    assert "0.50" in lines[8].split()


def test_pytorch_skipped_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    values = to_values(benchmark_grouped.paper_config(crop=32, **TINY))
    row = benchmark_grouped.measure_torch(values, batch_size=1, repeats=1)
    assert row == {"skipped": "torch is not installed"}
    grouped = {"crop": 32, "used": [grouped_row(0.5)], "others": [], "torch": row}
    text = benchmark_tables.tables({**circumstances(), "grouped": grouped})
    assert "2.00" in text.splitlines()[5]
    assert text.endswith("PyTorch skipped: torch is not installed")


def test_torch_generator_has_the_generators_parameters_and_range():
    torch = pytest.importorskip("torch")
    network = benchmark_grouped.torch_generator(TINY)
    x = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    with torch.no_grad():
        y = network(torch.from_numpy(x).movedim(-1, 1))
    assert y.shape == (1, 3, 32, 32)
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    ours = jax.eval_shape(lambda: ResNeXt(**TINY).init(jax.random.key(0), x, train=False)["params"])
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(ours))
    assert sum(p.numel() for p in network.parameters()) == count


def test_slide_repeats_one_patch_and_ends_at_its_size():
    strips = list(benchmark_streaming.slide_strips(700))
    assert [strip.shape for strip in strips] == [(512, 700, 3), (188, 700, 3)]
    slide = np.concatenate(strips)
    np.testing.assert_array_equal(slide[512:, 512:], slide[:188, :188])
    assert slide.std() > 5


def test_streaming_goes_from_file_to_files():
    row = benchmark_streaming.measure(smoke(joint), 40, 64)
    assert (row["input_size"], row["output_size"]) == (40, 160)
    assert set(row["file_bytes"]) == {"input", "sr", "labels"}
    assert all(row["file_bytes"].values())
    assert row["nuclei"] >= 0
    assert row["peak_bytes"] > 160 * 160 * 3
    assert "40 x 40 -> 160 x 160 px" in benchmark_tables.tables(
        {**circumstances(), "streaming": row}
    )


def test_borders_of_tiles_show_where_they_differ():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 1::2] = 10  # neighbours in a row differ by 10 everywhere, in a column by 0
    ratio = benchmark_synthesis.border_ratio(image, 16)
    assert ratio == pytest.approx((2 * 10 / 3) / (45 * 10 / 75))
    # Every other line across columns has a step; borders lie on such lines alone.
    steps = np.zeros((32, 32, 3), np.uint8)
    steps[:, 2::4], steps[:, 3::4] = 10, 10
    steps += steps.transpose(1, 0, 2)
    assert benchmark_synthesis.border_ratio(steps, 16) > 1.5
    assert benchmark_synthesis.border_ratio(steps, 16, 4) == pytest.approx(1)
    image[16:] += 40
    ratio = benchmark_synthesis.border_ratio(image, 16)
    assert ratio == pytest.approx(((2 * 10 + 40) / 3) / (45 * 10 / 75))


def test_synthesis_goes_from_file_to_files(monkeypatch):
    monkeypatch.setattr(benchmark_synthesis, "_untrained", lambda: tiny.run("pyramid"))
    row = benchmark_synthesis.measure(100, 32)
    assert (row["size"], row["tile"]) == (100, 28)  # four tiles a side
    assert row["nuclei"] > 3
    assert row["peak_bytes"] > 100 * 100 * 3
    assert 0.5 < row["border_ratio"] < 2
    assert "100 x 100 px" in benchmark_tables.tables({**circumstances(), "synthesis": row})


def test_maps_continue_over_the_patch_and_hold_as_many_nuclei():
    strips = list(benchmark_postprocessing.map_strips(1_300, rows=700))
    assert [strip["mask"].shape for strip in strips] == [(700, 1_300), (600, 1_300)]
    maps = {name: np.concatenate([strip[name] for strip in strips]) for name in strips[0]}
    for values in maps.values():
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1
        np.testing.assert_array_equal(values[1_000:, 1_000:], values[:300, :300])
    # What a wrapped patch puts side by side fits: no step over the seam is larger than elsewhere.
    steps = np.abs(np.diff(maps["mask"], axis=1)).max(0)
    assert steps[999] <= np.delete(steps, 999).max()


def test_both_forms_of_postprocessing_find_the_same_nuclei():
    rows = [benchmark_postprocessing.measure(400, form) for form in benchmark_postprocessing.FORMS]
    strips, whole = rows
    assert (strips["labels"], strips["nuclei"]) == (whole["labels"], whole["nuclei"])
    # A patch of 1,000 px a side has 508 nuclei.
    assert 40 < strips["nuclei"] < 140
    text = benchmark_tables.tables({**circumstances(), "postprocessing": rows})
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["form", "strips", "whole"]
    assert text.count("yes") == 2
    text = benchmark_tables.tables(
        {**circumstances(), "postprocessing": [strips, {**whole, "labels": 0}]}
    )
    assert text.splitlines()[-1].split()[3] == "no"


def test_nuclei_are_as_many_as_asked_for():
    truth = benchmark_instances.nuclei(90, 50)
    assert truth.dtype == np.int32
    np.testing.assert_array_equal(np.unique(truth), np.arange(51))
    # Semi-axes of .25 to .5 of the pitch: pi ab is .44 of a square in the mean, in 50 of 64.
    assert np.mean(truth > 0) == pytest.approx(0.44 * 50 / 64, rel=0.1)
    moved = benchmark_instances.nuclei(90, 50, missed=0.5, seed=1)
    assert 10 < len(np.unique(moved)) - 1 < 40
    # A moved nucleus lies on the one of its label, not on another.
    both = (truth > 0) & (moved > 0)
    assert np.mean(truth[both] == moved[both]) > 0.8


def test_instances_are_scored_by_table_and_loops():
    row = benchmark_instances.measure(60, 16, 1, loops=True)
    assert row["nuclei"][0] == 16
    assert list(row["parts"]) == ["table", "aji", "aji_plus", "pq", "f1", "all"]
    assert row["loops"]["scores"] == pytest.approx(row["scores"])
    assert row["times_slower"] == row["loops"]["seconds"] / row["parts"]["all"]["seconds"]
    assert row["peak_bytes"] >= row["before_bytes"] > 2 * 60 * 60 * 4
    alone = benchmark_instances.measure(60, 16, 1, loops=False)
    text = benchmark_tables.tables({**circumstances(), "instances": [row, alone]})
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["px", "60", "60"]
    assert text.splitlines()[-1].split()[-2:] == ["-", "-"]


def circumstances():
    return {
        "hardware": {"devices": 1, "kind": "cpu", "platform": "cpu", "host": "x", "cores": 2},
        "versions": {"jax": jax.__version__},
        "cores_used": [0],
        "load_average": [0.5, 0.4, 0.3],
    }


def test_table_columns_stand_under_each_other():
    rows = [{"stage": "joint", "ms": "1,000.0"}, {"stage": "segmentation", "ms": "2.5"}]
    assert benchmark_tables.aligned(rows).splitlines() == [
        "stage              ms",
        "joint         1,000.0",
        "segmentation      2.5",
    ]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.benchmark", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_command_prints_and_writes(tmp_path):
    done = command(
        "--config=configs/generator.py:smoke",
        "--what=inference",
        "--steps=1",
        "--inference_size=64",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(result["stages"]) == ["generator"]
    assert set(result["stages"]["generator"]) == {"inference"}
    assert result["hardware"]["platform"] == "cpu"
    assert result["versions"]["jax"] == jax.__version__
    assert result["cores_used"] == cores.usable()
    assert result["command"].startswith("python -m launch.benchmark --config=configs/generator.py")
    assert done.stdout.startswith("configs/generator.py:smoke\n8 x cpu")
    assert "tiled inference" in done.stdout
    assert f"jax {jax.__version__}" in done.stdout


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--what=speed", "--what has 'speed', which is none of step, inference, input"),
        ("--workers=0,many", "--workers has 'many'; give whole numbers from 0"),
        ("--stages=unet", "--stages has 'unet', which is none of generator"),
    ],
)
def test_command_refuses(flag, sentence, tmp_path):
    done = command("--config=configs/generator.py:smoke", flag, f"--output={tmp_path}")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
