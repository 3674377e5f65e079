from histojax.data.sources import prepared
from tests.data.datasets import official
from tests.test_cli import refused, run


def test_the_command_ends_in_a_sentence_or_a_set(tmp_path):
    root, data_dir = official.monuseg(tmp_path / "MoNuSeg"), tmp_path / "data"
    words = (f"--source={root}", f"--data_dir={data_dir}")
    assert "--dataset is missing" in refused("prepare", *words)
    words = ("--dataset=monuseg", *words)
    assert "limit is 1919" in refused("prepare", *words, "--max_pixels=1919")
    status, said = run("prepare", *words, "--max_pixels=1920")
    assert status == 0, said
    assert "3/3" in said
    assert prepared.prepared_names(data_dir) == ["monuseg"]
