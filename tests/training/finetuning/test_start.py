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


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_what_is_no_resnet18_is_refused_and_never_run(start, tmp_path, monkeypatch):
    """Code in a pickle is not run; another network, damage and nothing at all are each named."""
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Bomb()}, "bomb.pth")
    torch.save({**start.tensors, "layer3.5.conv1.weight": torch.zeros(1)}, "deep.pth")
    torch.save({k: v for k, v in start.tensors.items() if "layer4" not in k}, "cut.pth")
    torch.save({**start.tensors, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "grey.pth")
    torch.save({**start.tensors, "bn1.weight": torch.full((64,), float("nan"))}, "nan.pth")
    Path("junk.safetensors").write_bytes(b"junk" * 99)
    Path("weights.bin").write_bytes(b"junk")

    for name, sentence in {
        "bomb.pth": "never run here",
        "deep.pth": "it has layer3.5.conv1.weight",
        "cut.pth": "it lacks layer4.0.conv1.weight",
        "grey.pth": r"conv1.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)",
        "nan.pth": "bn1.weight has values that are not finite",
        "junk.safetensors": "cannot be read",
        "weights.bin": "no file of weights by its name",
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
