from __future__ import annotations

import hashlib
import http.server
import pathlib
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save, save_file

from histojax.components import pretrained
from histojax.errors import UserError
from histojax.models.resnet import ResNet
from histojax.zoo import registry
from tests.models.published_resnet import published_arrays as resnet_arrays
from tests.models.test_squeezenet import published_arrays as squeezenet_arrays
from tests.models.test_vgg import published_arrays as vgg_arrays


@pytest.fixture
def squeezenet_file(tmp_path):
    path = tmp_path / "squeezenet.npz"
    np.savez(path, **squeezenet_arrays())
    return path


def test_squeezenet_from_npz(squeezenet_file):
    digest = hashlib.sha256(squeezenet_file.read_bytes()).hexdigest()
    module, variables = pretrained.load_feature_network(
        "squeezenet1_1", str(squeezenet_file), digest.upper()
    )
    kernel = variables["params"]["fire5"]["expand3x3"]["kernel"]
    np.testing.assert_array_equal(kernel, squeezenet_arrays()["fire5/expand3x3/kernel"])
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    assert module.apply(variables, x, ("fire2",))["fire2"].shape == (1, 7, 7, 128)


def test_vgg19_from_safetensors_with_its_classifier_left_out(tmp_path):
    arrays = vgg_arrays(16)
    extra = {"pre_logits.fc1.weight": np.zeros((2, 2), np.float32), "head.fc.bias": np.zeros(2)}
    save_file(arrays | extra, tmp_path / "model.safetensors")
    _, variables = pretrained.load_feature_network("vgg19", str(tmp_path / "model.safetensors"))
    # The 16th convolution is module 34 of torchvision's list: 15 convolutions, 15 ReLUs, 4 pools.
    np.testing.assert_array_equal(
        variables["params"]["conv5_4"]["kernel"],
        arrays["features.34.weight"].transpose(2, 3, 1, 0),
    )
    assert len(variables["params"]) == 16


SE_RESNET = {"kind": "se_resnet50", "blocks": (1, 1), "width": 8}


def test_a_resnet_encoder_has_statistics_and_no_classifier(tmp_path):
    arrays = resnet_arrays(**SE_RESNET)
    save_file(arrays, tmp_path / "model.safetensors")
    encoder = ResNet(**SE_RESNET, se_bias=True)
    variables = pretrained.load_encoder(encoder, str(tmp_path / "model.safetensors"))
    params, statistics = variables["params"], variables["batch_stats"]
    for found, published in (
        (params["conv1"]["kernel"], arrays["conv1.weight"].transpose(2, 3, 1, 0)),
        (params["layer2_0"]["bn3"]["scale"], arrays["layer2.0.bn3.weight"]),
        (params["layer2_0"]["bn3"]["bias"], arrays["layer2.0.bn3.bias"]),
        (params["layer1_0"]["se"]["fc1"]["kernel"][0, 0], arrays["layer1.0.se.fc1.weight"].T[0, 0]),
        (params["layer1_0"]["se"]["fc2"]["bias"], arrays["layer1.0.se.fc2.bias"]),
        (
            params["layer2_0"]["downsample_conv"]["kernel"][0, 0],
            arrays["layer2.0.downsample.0.weight"][:, :, 0, 0].T,
        ),
        (
            statistics["layer2_0"]["downsample_bn"]["var"],
            arrays["layer2.0.downsample.1.running_var"],
        ),
        (statistics["bn1"]["mean"], arrays["bn1.running_mean"]),
    ):
        np.testing.assert_array_equal(found, published)
    # Every array but the classifier's two and the counters has its place.
    used = [k for k in arrays if not k.startswith("fc.") and not k.endswith("_tracked")]
    assert len(jax.tree.leaves(variables)) == len(used)


def test_squeeze_and_excitation_of_two_publishers_is_one(tmp_path):
    arrays = resnet_arrays(**SE_RESNET, se_bias=False)
    linear = {
        key.replace("se.fc1", "se.fc.0").replace("se.fc2", "se.fc.2"): (
            value[:, :, 0, 0].copy() if ".se." in key else value
        )
        for key, value in arrays.items()
    }
    assert set(linear) != set(arrays)
    save_file(arrays, tmp_path / "timm.safetensors")
    save_file(linear, tmp_path / "linear.safetensors")
    one, other = (
        pretrained.load_encoder(ResNet(**SE_RESNET), str(tmp_path / f"{name}.safetensors"))
        for name in ("timm", "linear")
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.faults
def test_another_encoders_file_is_refused_with_every_name(tmp_path):
    arrays = resnet_arrays("resnet18", (1, 1), 8)
    arrays["layer2.0.bn1.running_means"] = arrays.pop("layer2.0.bn1.running_mean")
    arrays["aux.weight"] = np.zeros((2, 3), np.float32)
    path = str(tmp_path / "model.safetensors")
    save_file(arrays, path)
    with pytest.raises(UserError) as error:
        pretrained.load_encoder(ResNet("resnet18", (1, 1), 8), path)
    said = str(error.value)
    for line in (
        "- batch_stats/layer2_0/bn1/mean (16,)",
        "+ params/layer2_0/bn1/running_means (16,)",
        "+ aux.weight (2, 3)",
    ):
        assert line in said
    assert said.count(" (") == 3


@pytest.mark.faults
def test_what_an_encoder_needs_is_said(tmp_path):
    save_file(resnet_arrays(**SE_RESNET), tmp_path / "timm.safetensors")
    with pytest.raises(UserError, match=r"set segmenter\.se_bias=True"):
        pretrained.load_encoder(ResNet(**SE_RESNET), str(tmp_path / "timm.safetensors"))
    with pytest.raises(UserError, match=r"encoder se_resnet18 no weights .*segmenter\.weights"):
        pretrained.load_encoder(ResNet("se_resnet18"), path_field="config.segmenter.weights")


@pytest.mark.parametrize(
    ("kind", "repository"),
    [("resnet18", "timm/resnet18.tv_in1k"), ("se_resnet50", "timm/seresnet50.ra2_in1k")],
)
def test_an_encoder_without_a_path_comes_from_its_repository(
    monkeypatch, tmp_path, kind, repository
):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    path = tmp_path / "model.safetensors"
    save_file(resnet_arrays(kind, (1,), 4), path)
    asked = []

    def cached(*names):
        asked.append(names)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    pretrained.load_encoder(ResNet(kind, (1,), 4, se_bias=True))
    assert asked == [(repository, "model.safetensors")]


@pytest.mark.faults
def test_another_sha256_names_both(squeezenet_file):
    digest = hashlib.sha256(squeezenet_file.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"{digest}.*{'0' * 64}"):
        pretrained.load_feature_network("squeezenet1_1", str(squeezenet_file), "0" * 64)


@pytest.mark.faults
def test_a_mismatch_lists_every_missing_and_extra_name(tmp_path):
    arrays = squeezenet_arrays()
    arrays["fire2/squeeze1x1/weights"] = arrays.pop("fire2/squeeze1x1/kernel")
    arrays["conv1/bias"] = np.zeros(96, np.float32)
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError) as error:
        pretrained.load_feature_network("squeezenet1_1", str(tmp_path / "other.npz"))
    for line in (
        "- conv1/bias (64,)",
        "+ conv1/bias (96,)",
        "- fire2/squeeze1x1/kernel (1, 1, 64, 16)",
        "+ fire2/squeeze1x1/weights (1, 1, 64, 16)",
    ):
        assert line in str(error.value)
    assert str(error.value).count(" (") == 4


@pytest.mark.faults
def test_pickled_objects_are_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    np.savez(tmp_path / "bomb.npz", **{"conv1/kernel": np.array([Bomb()], dtype=object)})
    with pytest.raises(UserError, match="without pickled objects"):
        pretrained.read_arrays(tmp_path / "bomb.npz")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["cut.npz", "cut.safetensors"])
def test_truncated_files_are_refused(tmp_path, name):
    whole = tmp_path / f"whole{name[3:]}"
    if name.endswith("npz"):
        np.savez(whole, a=np.zeros(1000))
    else:
        save_file({"a": np.zeros(1000)}, whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(UserError, match=rf"{name}.*fetch it again"):
        pretrained.read_arrays(tmp_path / name)


@pytest.mark.faults
def test_missing_files_unknown_endings_and_names(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"absent\.npz does not exist: correct loss\.path"):
        pretrained.load_feature_network(
            "squeezenet1_1", str(tmp_path / "absent.npz"), path_field="loss.path"
        )
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="convert it"):
        pretrained.read_arrays(tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"resnet50.*vgg19, squeezenet1_1, vgg16"):
        pretrained.load_feature_network("resnet50")
    monkeypatch.setattr(pretrained, "bundled", lambda name: None)
    with pytest.raises(UserError, match=r"vgg16 are missing in third_party.*file in loss\.path"):
        pretrained.load_feature_network("vgg16", path_field="loss.path")


@pytest.mark.faults
def test_offline_says_what_to_fetch_and_where_to_name_it(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a: None)
    with pytest.raises(UserError) as error:
        pretrained.load_feature_network("vgg19", path_field="loss.features.path")
    for part in ("timm/vgg19.tv_in1k", "model.safetensors", "loss.features.path"):
        assert part in str(error.value)


def test_a_fetched_file_is_not_asked_for_again(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    save_file(vgg_arrays(16), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *a: str(tmp_path / "model.safetensors"),
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: pytest.fail("asked again"))
    module, _ = pretrained.load_feature_network("vgg19")
    assert type(module).__name__ == "VGG19"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one file as the Hugging Face hub does; `reach` bytes of it before the line breaks."""

    body, reach = b"", 0

    def do_HEAD(self):
        first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("ETag", '"1234"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.body) - first))
        if first:
            self.send_header(
                "Content-Range", f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
            )
        self.end_headers()
        return first

    def do_GET(self):
        first = self.do_HEAD()
        self.wfile.write(self.body[first : self.reach])

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of this machine, from which huggingface_hub fetches into tmp_path/hub."""
    file_download = pytest.importorskip("huggingface_hub.file_download")
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(Hub, "body", save(vgg_arrays(16)))
    monkeypatch.setattr(Hub, "reach", len(Hub.body))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.mark.faults
def test_an_interrupted_download_is_never_taken_for_whole(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "reach", len(hub.body) // 2)
    for _ in range(2):
        with pytest.raises(UserError, match=r"could not be fetched .*name the file in loss\.path"):
            pretrained.load_feature_network("vgg19", path_field="loss.path")
    assert not list((tmp_path / "hub").rglob("*.safetensors"))
    monkeypatch.setattr(hub, "reach", len(hub.body))
    _, variables = pretrained.load_feature_network("vgg19")
    assert len(variables["params"]) == 16
    (kept,) = (tmp_path / "hub").rglob("*.safetensors")
    assert pathlib.Path(kept).read_bytes() == hub.body


@pytest.mark.faults
def test_an_unwritable_cache_of_weights_is_one_sentence(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(UserError) as failure:
        pretrained.load_feature_network("vgg19", path_field="loss.path")
    said = str(failure.value)
    assert said.startswith(f"The weights of vgg19 cannot be kept in {tmp_path}/file/hub")
    assert "(Not a directory): set HF_HOME to a folder that can be written, or download" in said


# Mean and maximum of layers for the first 64 x 64 px of a sample field, by PyTorch 2.13 from the
# files that those in third_party were made of, in float32.
RECORDED = {
    "squeezenet1_1": {
        "conv1": (14.5205, 370.326),
        "fire4": (36.0995, 986.178),
        "fire9": (0.76771, 82.918),
    },
    "vgg16": {
        "relu1_2": (116.605, 1597.99),
        "relu2_2": (71.8761, 2986.15),
        "relu3_3": (16.1546, 2183.35),
    },
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_network_in_third_party_is_found_by_name_and_sees_what_was_recorded(name):
    image = np.asarray(Image.open(registry.SAMPLES / "breast_10x.tif").convert("RGB"))[:64, :64]
    network, variables = pretrained.load_feature_network(name)
    apply = jax.jit(network.apply, static_argnums=2)
    found = apply(variables, image[None].astype(np.float32) / 255, tuple(RECORDED[name]))
    for tap, expected in RECORDED[name].items():
        # Half precision keeps three digits of each weight.
        np.testing.assert_allclose((found[tap].mean(), found[tap].max()), expected, rtol=2e-3)


@pytest.mark.parametrize("name", pretrained.BUNDLED)
def test_a_file_in_third_party_is_that_of_its_page(name):
    folder = pathlib.Path(__file__).parents[2] / "third_party" / name
    assert pretrained.bundled(name) == folder / f"{name}.safetensors"
    digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    assert digest == pretrained.BUNDLED[name]
    assert digest in (folder / "README.md").read_text()


def test_the_files_of_a_wheel_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "histojax/components/pretrained.py"))
    for folder in (tmp_path, tmp_path / "histojax"):
        file = folder / "third_party/vgg16/vgg16.safetensors"
        file.parent.mkdir(parents=True)
        file.with_name("other.safetensors").touch()
        assert pretrained.bundled("vgg16") != file
        file.touch()
        assert pretrained.bundled("vgg16") == file
    assert pretrained.bundled("vgg19") is None


@pytest.mark.faults
def test_a_changed_file_in_third_party_is_refused(monkeypatch, squeezenet_file):
    monkeypatch.setattr(pretrained, "bundled", lambda name: squeezenet_file)
    with pytest.raises(UserError, match=r"has SHA-256 .* where 05accf0c"):
        pretrained.load_feature_network("squeezenet1_1")
