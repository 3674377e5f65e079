import json

import pytest
from ml_collections import ConfigDict

from histojax.config import FORMAT, claim_workdir, differences, from_values, read_config, to_values
from histojax.errors import DiskError, UserError


def settings(**changes):
    return ConfigDict({"name": "x", "steps": 5, "data": {"crop": 32, "range": (1, 2)}, **changes})


def test_a_resolved_config_is_plain_json_and_comes_back():
    values = to_values(settings())
    assert json.loads(json.dumps(values)) == values
    assert values["data"]["range"] == [1, 2]
    assert to_values(from_values(values)) == values


def test_homes_are_known_in_text_at_any_depth(tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", r"C:\Users\me"))
    config = settings(paths={"source": "folder:~/d", "list": ["~/a", 'x "~/b"', 3, None]})
    values = to_values(config)
    home = r"C:\Users\me"
    expected = {"source": f"folder:{home}/d", "list": [f"{home}/a", 'x "~/b"', 3, None]}
    assert values["paths"] == expected
    assert values["name"] == "x"
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT, **config.to_dict()}))
    assert read_config(tmp_path / "config.json") == values


def test_differences_name_every_field_but_length_and_logging():
    old = to_values(settings())
    new = to_values(settings(steps=9, log={"every": 1}, data={"crop": 64, "range": (1, 3)}))
    assert differences(old, new) == ["data.crop: 32 -> 64", "data.range: [1, 2] -> [1, 3]"]
    assert differences(old, to_values(settings(extra=1))) == ["extra: absent -> 1"]
    more = to_values(settings(data={"crop": 32, "range": (1, 2), "max_pixels": 9}))
    assert differences(old, more) == []


def test_where_batches_are_made_may_change():
    old, new = (
        to_values(settings(data={"crop": 32, "workers": workers, "device_bytes": size}))
        for workers, size in ((2, 10), (0, 20))
    )
    assert differences(old, new) == []


@pytest.mark.faults
def test_claim_writes_then_accepts_then_refuses(tmp_path):
    claim_workdir(settings(), tmp_path / "run")
    claim_workdir(settings(steps=50), tmp_path / "run")
    assert read_config(tmp_path / "run" / "config.json")["steps"] == 50
    with pytest.raises(UserError, match=r"data\.crop: 32 -> 48") as failure:
        claim_workdir(settings(data={"crop": 48, "range": (1, 2)}), tmp_path / "run")
    assert "--workdir" in str(failure.value)
    assert read_config(tmp_path / "run" / "config.json")["data"]["crop"] == 32


@pytest.mark.faults
@pytest.mark.parametrize(
    ("found", "remedy"),
    [(1, "train the run again in another workdir"), (FORMAT + 1, "update histojax")],
)
def test_a_config_of_another_format_is_refused_and_left(tmp_path, monkeypatch, found, remedy):
    monkeypatch.setattr("histojax.config.FORMAT", found)
    claim_workdir(settings(), tmp_path)
    monkeypatch.undo()
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as failure:
        claim_workdir(settings(), tmp_path)
    assert str(failure.value) == (
        f"{tmp_path / 'config.json'} has format {found}, and this histojax reads format {FORMAT} "
        f"alone: {remedy}"
    )
    assert (tmp_path / "config.json").read_text() == before


def test_the_format_is_written_and_is_no_field(tmp_path):
    claim_workdir(settings(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT
    assert read_config(tmp_path / "config.json") == to_values(settings())


@pytest.mark.faults
def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"Writing to .*file/run/config\.json failed"):
        claim_workdir(settings(), tmp_path / "file" / "run")


@pytest.mark.faults
def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        read_config(tmp_path / "config.json")
    for damaged, said in (
        (b"{", r"is not JSON \(Expecting property"),
        (b'{"name": "\xff"}', "is not JSON .*can't decode byte 0xff"),
        (b"[]", "holds no JSON object of fields"),
    ):
        (tmp_path / "config.json").write_bytes(damaged)
        with pytest.raises(UserError, match=said) as failure:
            read_config(tmp_path / "config.json")
        assert str(failure.value).startswith(f"{tmp_path}/config.json ")
        assert str(failure.value).endswith("; restore or remove the workdir")
