"""The weights that a fine-tuning starts from: read from files, or refused with a sentence."""

from pathlib import Path

import pytest
import torch

from training.errors import ConfigError
from training.model import pretrained
from training.runs import checkpoint


def test_weights_are_read_from_files(run_dir, start, tmp_path):
    """A state dict as safetensors or .pth, bare or wrapped, gives the run's own weights."""
    from safetensors.torch import save_file

    weights = {**start.tensors, "fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)}
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "c.pt")
    best = run_dir / "checkpoints" / checkpoint.BEST

    for path in (tmp_path / "a.safetensors", tmp_path / "b.pth", tmp_path / "c.pt", best):
        assert start.sha256 == pretrained.read(path).sha256


def _prefixed(weights, prefix):
    return {f"{prefix}{name}": value for name, value in weights.items()}


WAYS = {
    "module": lambda w: _prefixed(w, "module."),
    "model": lambda w: _prefixed(w, "model."),
    "net": lambda w: {"state_dict": _prefixed(w, "net.")},
    "compiled": lambda w: _prefixed(w, "_orig_mod."),
    "compiled and parallel": lambda w: {"model": _prefixed(w, "module._orig_mod.")},
    "compiled inside": lambda w: {n.replace("layer1.", "layer1._orig_mod."): v
                                  for n, v in w.items()},
    "lightning": lambda w: {"epoch": 3, "optimizer_states": [{"lr": 0.1}], "state_dict": {
        **_prefixed(w, "model.backbone."), "criterion.weight": torch.zeros(4)}},
    "model_state": lambda w: {"epoch": 3, "model_state": w},
    "timm": lambda w: {"arch": "resnet18", "state_dict": _prefixed(w, "x."), "state_dict_ema": w},
    "ema": lambda w: {"model": {n: v + 1 for n, v in w.items()}, "ema": {"module": w, "n": 3}},
    "another wrapper": lambda w: {"model_weights": w, "optimizer": {"state": {}}},
    "another head": lambda w: {k.replace("fc.", "classifier."): v for k, v in w.items()},
    "averages": lambda w: {**_prefixed({n: v * 2 for n, v in w.items()}, "model."),
                           **_prefixed(w, "model_ema.")},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pth.tar"])
def test_state_dicts_are_read_as_people_have_them(start, tmp_path, way, suffix):
    """Prefixes, wrappers and compiled names are undone; where there is an average, it is taken."""
    weights = {**start.tensors, "fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)}
    torch.save(WAYS[way](weights), tmp_path / f"a{suffix}")

    assert start.sha256 == pretrained.read(tmp_path / f"a{suffix}").sha256


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("resnet34", "ResNet34"), ("resnet50", "ResNet50"), ("resnet101", "ResNet101"),
        ("wide_resnet50_2", "wide ResNet50"), ("resnext50_32x4d", "ResNeXt like ResNet50"),
        ("vgg11", "VGG"), ("mobilenet_v3_small", "MobileNet"), ("densenet121", "DenseNet"),
        ("vit_b_32", "vision transformer"), ("convnext_tiny", "ConvNeXt"),
    ],
)  # fmt: skip
def test_another_network_is_named_as_what_it_is(tmp_path, model, name):
    """A person who gives ResNet34 is told so, and not which 90 tensors are too many."""
    import torchvision

    with torch.device("meta"):
        weights = torchvision.models.get_model(model).state_dict()
    if model != "vit_b_32":
        # One number each, however large the tensor.
        weights = {key: torch.zeros(()).expand(v.shape) for key, v in weights.items()}
    else:
        weights = {"class_token": torch.zeros(1, 1, 768)}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")

    with pytest.raises(ConfigError, match=name):
        pretrained.read(tmp_path / "a.pth")


def test_several_networks_in_a_file_are_named(start, tmp_path):
    """Nobody guesses whether the student or the teacher is meant."""
    both = {**_prefixed(start.tensors, "student."), **_prefixed(start.tensors, "teacher.")}
    torch.save(both, tmp_path / "a.pth")
    torch.save({"student": start.tensors, "teacher": start.tensors}, tmp_path / "b.pth")

    with pytest.raises(ConfigError, match=r"several networks \(student\., teacher\.\)"):
        pretrained.read(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"several networks \(student, teacher\)"):
        pretrained.read(tmp_path / "b.pth")


# torch warns that sparse tensors are checked when they are read, and quantised ones given up.
@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "made",
    [
        lambda w: w.to_sparse(), lambda w: w.to("meta"), lambda w: w.to(torch.complex64),
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "complex", "quantised"],
)  # fmt: skip
def test_tensors_that_are_no_plain_weights_are_named(start, tmp_path, made):
    """What torch would refuse in its own words, somewhere later."""
    torch.save({**start.tensors, "conv1.weight": made(start.tensors["conv1.weight"])},
               tmp_path / "a.pth")  # fmt: skip

    with pytest.raises(ConfigError, match=r"conv1\.weight is quantised, sparse, complex or has no"):
        pretrained.read(tmp_path / "a.pth")


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_what_is_no_resnet18_is_refused_and_never_run(start, tmp_path, monkeypatch):
    """Code in a pickle is not run; another network, damage and nothing at all are each named."""
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Bomb()}, "bomb.pth")
    torch.save({"state_dict": start.tensors, "callbacks": _Bomb()}, "bomb.ckpt")
    torch.save({**start.tensors, "layer3.5.conv1.weight": torch.zeros(1)}, "deep.pth")
    torch.save({k: v for k, v in start.tensors.items() if "layer4" not in k}, "cut.pth")
    torch.save({**start.tensors, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "grey.pth")
    torch.save({**start.tensors, "bn1.weight": torch.full((64,), float("nan"))}, "nan.pth")
    Path("junk.safetensors").write_bytes(b"junk" * 99)
    Path("weights.h5").write_bytes(b"junk")

    for name, sentence in {
        "bomb.pth": "never run here",
        "bomb.ckpt": "never run here",
        "deep.pth": "it has layer3.5.conv1.weight",
        "cut.pth": "it lacks layer4.0.conv1.weight",
        "grey.pth": r"conv1.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)",
        "nan.pth": "bn1.weight has values that are not finite",
        "junk.safetensors": "cannot be read",
        "weights.h5": "no file of weights by its name",
        "absent.pth": "no weights at absent.pth",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            pretrained.read(name)
    assert not Path("exploded").exists()


def test_torchvision_without_a_connection_says_where_to_put_the_file(tmp_path, monkeypatch):
    """The real download fails on a closed port, in a sentence that names the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")

    with pytest.raises(ConfigError, match=r"put resnet18-\w+\.pth into .*checkpoints"):
        pretrained.read("torchvision")
