import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.config import FORMAT
from histojax.errors import DiskError, UserError
from histojax.runs import checkpoint
from tests.tiny import full_disk


def tree(value=0.0, width=3):
    return {
        "params": {"dense": {"kernel": jnp.full((2, width), value), "bias": jnp.zeros(width)}},
        "rng": jax.random.key(7),
        "step": jnp.asarray(4, jnp.int32),
    }


def save(series, step, value):
    series.save(step, tree(value), data={"position": step}, meta={"best": value, "seconds": 1.0})


def test_what_is_saved_comes_back_whole(tmp_path):
    series = checkpoint.Series(tmp_path)
    save(series, 4, 2.5)
    restored = series.restore(tree())
    assert restored.step == 4
    assert restored.data == {"position": 4}
    assert restored.meta["best"] == 2.5
    np.testing.assert_array_equal(restored.state["params"]["dense"]["kernel"], np.full((2, 3), 2.5))
    expected = jax.random.key_data(jax.random.split(jax.random.key(7))[0])
    got = jax.random.key_data(jax.random.split(restored.state["rng"])[0])
    np.testing.assert_array_equal(got, expected)


def test_nothing_saved_is_none(tmp_path):
    assert checkpoint.Series(tmp_path / "none").restore(tree()) is None


def test_only_the_newest_are_kept(tmp_path):
    series = checkpoint.Series(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(series, step, float(step))
    assert series.steps() == [2, 3]


def test_a_step_is_saved_again_after_going_back(tmp_path):
    series = checkpoint.Series(tmp_path, keep=2)
    save(series, 5, 1.0)
    again = checkpoint.Series(tmp_path, keep=2)
    save(again, 5, 2.0)
    save(again, 4, 3.0)
    assert checkpoint.Series(tmp_path).restore(tree()).step == 4
    assert checkpoint.Series(tmp_path).restore(tree()).meta["best"] == 3.0


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["state", "meta"])
def test_a_half_written_checkpoint_is_passed_over_and_said(tmp_path, damage, caplog):
    series = checkpoint.Series(tmp_path)
    save(series, 1, 1.0)
    save(series, 2, 2.0)
    files = [p for p in (tmp_path / "2" / damage).rglob("*") if p.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level("WARNING"):
        restored = checkpoint.Series(tmp_path).restore(tree())
    assert restored.step == 1
    assert "step 2 is damaged" in caplog.text


@pytest.mark.faults
def test_all_damaged_is_refused(tmp_path):
    series = checkpoint.Series(tmp_path)
    save(series, 1, 1.0)
    for file in (tmp_path / "1" / "meta").rglob("*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"steps \[1\] are damaged"):
        checkpoint.Series(tmp_path).restore(tree())


@pytest.mark.faults
def test_another_architecture_lists_every_name(tmp_path):
    series = checkpoint.Series(tmp_path)
    save(series, 1, 1.0)
    other = tree(width=5)
    other["params"]["head"] = {"kernel": jnp.zeros((1, 1))}
    del other["params"]["dense"]["bias"]
    with pytest.raises(UserError) as failure:
        checkpoint.Series(tmp_path).restore(other)
    lines = str(failure.value).splitlines()[1:]
    assert lines == [
        "- params/head/kernel (1, 1)",
        "+ params/dense/bias (3,)",
        "~ params/dense/kernel stored (2, 3), needed (2, 5)",
    ]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("found", "remedy"),
    [(1, "train the run again in another workdir"), (FORMAT + 1, "update histojax")],
)
def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch, found, remedy):
    monkeypatch.setattr(checkpoint, "FORMAT", found)
    save(checkpoint.Series(tmp_path), 1, 1.0)
    with pytest.raises(UserError) as failure:
        checkpoint.Series(tmp_path).restore(tree())
    assert str(failure.value) == (
        f"{tmp_path}/1 has format {found}, and this histojax reads format {FORMAT} alone: {remedy}"
    )


def test_what_is_saved_in_the_background_is_the_state_of_its_step(tmp_path):
    series = checkpoint.Series(tmp_path, background=True)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"a": jnp.zeros((2000, 1000)), "b": jnp.zeros(3)}
    for number in range(1, 5):
        state = step(state)
        series.save(number, state, data={"position": number}, meta={"best": 0.0})
    state = step(state)
    series.close()
    assert series.steps() == [3, 4]
    restored = checkpoint.Series(tmp_path).restore(state)
    assert (restored.step, restored.data) == (4, {"position": 4})
    for array in restored.state.values():
        np.testing.assert_array_equal(array, np.full(array.shape, 4.0))


@pytest.mark.faults
@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_one_sentence_and_keeps_checkpoints(tmp_path, background, capfd):
    def save(step, value):
        # Many arrays, so that some are still being written when the first is refused.
        arrays = {f"a{index}": jnp.full((100, 100), value) + index for index in range(20)}
        series.save(step, arrays, data={"position": step}, meta={"best": value})
        series.wait()
        return arrays

    series = checkpoint.Series(tmp_path / "last", background=background)
    first = save(1, 0.1)
    with full_disk(2_000), pytest.raises(DiskError) as failure:
        save(2, 0.2)
    said = str(failure.value)
    assert said.startswith(f"Writing to {tmp_path}/last/2 failed (File too large; ")
    assert "MB are free): free space there" in said
    assert "\n" not in said
    assert not (tmp_path / "last" / "2").exists()
    assert series.steps() == [1]
    restored = checkpoint.Series(tmp_path / "last").restore(first)
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["a7"], first["a7"])
    save(3, 0.3)
    assert series.steps() == [1, 3]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.faults
def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(tmp_path):
    save(checkpoint.Series(tmp_path), 1, 1.0)
    part = tmp_path / "2.orbax-checkpoint-tmp"
    (part / "state").mkdir(parents=True)
    assert checkpoint.Series(tmp_path).steps() == [1]
    save(checkpoint.Series(tmp_path), 3, 3.0)
    assert not part.exists()
