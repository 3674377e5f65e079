"""The reference pages say what the source says beside each field."""

import importlib.util
import pathlib

_PATH = pathlib.Path(__file__).parents[2] / "docs" / "generate.py"
_SPEC = importlib.util.spec_from_file_location("docs_generate", _PATH)
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)

SOURCE = """
def optimizer(rate):
    return ConfigDict({"rate": rate, "clip": 1.0})  # a step

def get_config(size):
    # Share of
    # the labels.
    config.share = 0.5  # nested
    config.data = ConfigDict(
        {
            "name": "x",  # x | y
            "plain": 1,
            "inner": {
                # px
                "side": 4,
            },
        }
    )
"""


def test_comments_above_and_beside_belong_to_their_field():
    assert generate.comments_of(SOURCE) == {
        ("config", "share"): "Share of the labels. nested",
        ("data", "name"): "x | y",
        ("inner", "side"): "px",
        # One line, several fields: the first one's.
        ("optimizer", "rate"): "a step",
    }


def test_every_optimizer_has_the_comments_of_optimizer():
    comments = generate.comments_of(SOURCE)
    assert generate.comment_for(comments, "segmenter_optimizer.rate") == "a step"
    assert generate.comment_for(comments, "data.rate") == ""


def test_other_sizes_are_those_that_differ_from_laptop():
    sizes = {"smoke": {"a": 1}, "laptop": {"a": 2, "b": 3}, "gpu": {"a": 2, "b": 3}}
    assert generate.other_sizes(sizes, "a") == "smoke `1`"
    assert generate.other_sizes(sizes, "b") == "smoke –"


def test_bars_in_cells_do_not_split_them():
    assert generate.table(("a",), [("x | y",)]).splitlines()[-1] == r"| x \| y |"
