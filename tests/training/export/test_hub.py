"""A run in the hub's layout: timm and torchvision answer as the run does; and back from a hub."""

import http.server
import json
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hansang import app
from training.errors import ExportError, RunError, TrainingError
from training.export.hub import export
from training.model.resnet import build
from training.reports.card import as_json, as_markdown, card
from training.runs import checkpoint


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory) -> Path:
    """Give the folder that `hansang export` wrote."""
    out = tmp_path_factory.mktemp("hub") / "dishes"
    app(["export", str(run_dir), "--to", str(out)], standalone_mode=False)
    return out


@pytest.fixture(scope="module")
def logits(run_dir):
    """Give photos (N, 3, S, S) and what the run's own weights say of them."""
    tensors, _ = checkpoint.load(run_dir / "checkpoints" / checkpoint.BEST)
    own = build(3, seed=0)
    own.load_state_dict(checkpoint.model_tensors(tensors))
    photos = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return photos, own.eval()(photos)


def test_torchvision_answers_alike(exported, logits):
    """`resnet18().load_state_dict` takes the file, and the logits are the same bits."""
    from torchvision.models import resnet18

    photos, wanted = logits
    other = resnet18(num_classes=3)
    other.load_state_dict(load_file(exported / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(wanted, other.eval()(photos))


def test_timm_answers_alike(exported, logits):
    """`timm.create_model` on the folder: the same logits, classes, size and normalisation."""
    timm = pytest.importorskip("timm")
    photos, wanted = logits
    other = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(wanted, other(photos), atol=1e-6)
    data = timm.data.resolve_model_data_config(other)
    assert [3, 32, 32] == list(data["input_size"])
    assert ("bilinear", "center") == (data["interpolation"], data["crop_mode"])
    assert np.allclose([0.485, 0.456, 0.406], data["mean"])
    labels = json.loads((exported / "config.json").read_text())["label_names"]
    assert labels == json.loads((exported / "card.json").read_text())["model"]["labels"]


def test_the_card_tells_what_was_measured(exported, run_dir):
    """Its numbers are those of the run, class by class and split by split."""
    told = json.loads((exported / "card.json").read_text())
    result = json.loads((run_dir / "result.json").read_text())
    assert told["accuracy"]["val"]["top1"] == pytest.approx(result["val_top1"])
    assert told["accuracy"]["test"]["interval"] == pytest.approx(result["test_interval"])
    assert told["calibration"]["temperature"] == result["temperature"]
    assert {"train": 48, "val": 6, "test": 6} == told["data"]["splits"]
    assert 3 == len(told["data"]["classes"])
    assert told["reproduce"]["command"].startswith("hansang train DATA --recipe")
    page = (exported / "README.md").read_text()
    assert page.startswith("---\nlibrary_name: timm\n")
    for label in told["model"]["labels"]:
        assert f"| {label} | " in page
    assert told["model"]["dataset_hash"] in page


def test_the_card_says_when_photos_are_not_known(run_dir, tmp_path):
    """A run whose cache is gone has a card all the same, which says so."""
    import shutil

    copy = shutil.copytree(run_dir, tmp_path / "run")
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "cache": str(tmp_path / "gone")}))
    told = card(copy)
    assert {} == told["data"]["classes"]
    assert "Not known any more" in as_markdown(told)
    assert json.loads(as_json(told)) == told


def test_mistakes_leave_nothing(exported, run_dir, tmp_path):
    """A folder that is there, and a run that is none, are refused; nothing half is written."""
    before = sorted(exported.iterdir())
    with pytest.raises(ExportError, match="is there already"):
        export(run_dir, exported, card={})
    assert before == sorted(exported.iterdir())
    with pytest.raises(RunError, match="no best epoch"):
        export(tmp_path, tmp_path / "out", card={})
    assert [] == list(tmp_path.iterdir())


class _Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the hub's protocol for one file."""

    content = b""

    def do_HEAD(self) -> None:
        known = self.path.startswith("/kitchen/dishes/resolve/main/model.safetensors")
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef01234567"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(self.content)))
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# Forked from a clean server that has imported torch, and none of the hub's client.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["training.model.pretrained"])


def read_there(source: str, environment: dict[str, str], said: multiprocessing.SimpleQueue) -> None:
    """Tell the digest of weights, or why they are refused; the client reads its environment."""
    os.environ.update(environment)
    from training.model.pretrained import read

    try:
        said.put(read(source).sha256)
    except TrainingError as error:
        said.put(f"refused: {error}")


@pytest.fixture
def hub(exported, tmp_path):
    """`hub("hf-hub:…", …)` reads from a hub on this machine, in a process of its own."""
    handler = type("Hub", (_Hub,), {"content": (exported / "model.safetensors").read_bytes()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def read(source, **environment):
        known = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        said = PROCESSES.SimpleQueue()
        process = PROCESSES.Process(target=read_there, args=(source, known | environment, said))
        process.start()
        process.join(120)
        assert 0 == process.exitcode
        return said.get()

    yield read
    server.shutdown()
    server.server_close()


def test_weights_come_from_a_hub_and_stay(exported, hub):
    """The real client downloads them; offline what it kept is used, and what it has not is told."""
    from training.model.pretrained import read

    wanted = read(exported / "model.safetensors").sha256
    assert wanted == hub("hf-hub:kitchen/dishes")
    assert wanted == hub("hf-hub:kitchen/dishes", HF_ENDPOINT="http://127.0.0.1:9")
    away = hub("hf-hub:kitchen/soups", HF_ENDPOINT="http://127.0.0.1:9")
    assert away.startswith("refused: the hub cannot be reached")
    assert "--from FILE.safetensors" in away
    assert "the hub cannot be reached" in hub("timm:resnet18.a1_in1k", HF_HUB_OFFLINE="1")


def test_a_hub_that_has_none_is_told(hub):
    """No such model, and what is no name, each have a sentence."""
    assert "gives no model.safetensors of kitchen/soups" in hub("hf-hub:kitchen/soups")
    assert "names no model of the hub" in hub("hf-hub:../../etc")
