"""Deploying and approving, with real servers, by `make test-prefect`."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.flows.rig import Rig
from tests.paths import ROOT

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("HANSANG_TEST_PREFECT"),
        reason="minutes of servers and workers: make test-prefect runs it",
    ),
]


@pytest.fixture
def rig(tmp_path):
    """A server of its own."""
    rig = Rig(tmp_path)
    rig.start_server()
    yield rig
    rig.close()


@pytest.fixture
def run_dir(photos, tmp_path) -> Path:
    """A trained run."""
    subprocess.run(
        [sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", "2",
         "--image-size", "32", "--device", "cpu", "--set", "batch_size=16",
         "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "runs" / "r"


def test_deploying_twice_changes_nothing_and_a_person_can_change_a_limit_back(rig):
    """All is created, then all is unchanged; what somebody changed is put right and named."""
    first = rig.deploy()
    again = rig.deploy()

    assert {"created"} == {change["what"] for change in first}
    assert {"unchanged"} == {change["what"] for change in again}
    names = {change["name"] for change in first}
    flows = ("pipeline", "train", "tune", "finetune", "review", "prepare", "release", "rollback",
             "prune", "drift")  # fmt: skip
    assert {f"{flow}/{flow}" for flow in flows} <= names
    pipeline = rig.get("/deployments/name/pipeline/pipeline")
    assert "0 2 * * *" == pipeline["schedules"][0]["schedule"]["cron"]
    assert 1 == pipeline["global_concurrency_limit"]["limit"]
    form = pipeline["parameter_openapi_schema"]
    assert {"Training", "Places", "Nightly", "Rules"} <= form["definitions"].keys()
    pool = rig.get("/work_pools/hansang-cpu")
    assert 1 == pool["concurrency_limit"]

    request = urllib.request.Request(  # noqa: S310
        f"{rig.url}/work_pools/hansang-cpu", json.dumps({"concurrency_limit": 9}).encode(),
        {"Content-Type": "application/json"}, method="PATCH",
    )  # fmt: skip
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310

    changed = [change for change in rig.deploy() if change["what"] != "unchanged"]
    assert [("hansang-cpu", "limit 9 → 1")] == [(each["name"], each["what"]) for each in changed]

    moved = {each["name"] for each in rig.deploy(more="timezone='Asia/Seoul'")
             if each["what"] == "schedules"}  # fmt: skip
    assert {"pipeline/pipeline", "prune/prune"} == moved
    pipeline = rig.get("/deployments/name/pipeline/pipeline")
    assert "Asia/Seoul" == pipeline["schedules"][0]["schedule"]["timezone"]


def test_failed_late_and_crashed_runs_are_told_to_alertmanager(tmp_path):
    """Each is an alert of Alertmanager's own form, with what the run said; a good run is none."""
    told: list[dict] = []

    class Alertmanager(BaseHTTPRequestHandler):
        def do_POST(self):
            assert "/api/v2/alerts" == self.path
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Alertmanager)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    rig = Rig(tmp_path, HANSANG_ALERTS=f"http://127.0.0.1:{receiver.server_port}")
    rig.start_server()
    try:
        rig.deploy()
        assert {"unchanged"} == {change["what"] for change in rig.deploy()}
        said = 'the "photos" are gone:\n김치'
        for state in ("COMPLETED", "FAILED"):
            run = rig.start_run("prepare/prepare", {"data": "x"})
            for each in ("PENDING", "RUNNING", state):
                rig.post(f"/flow_runs/{run}/set_state",
                         {"state": {"type": each, "message": said}, "force": True})  # fmt: skip
        rig.until(lambda: told, within_s=60)
        # No worker takes it: the server itself finds that it is late.
        rig.start_run("prepare/prepare", {"data": "x"})
        rig.until(lambda: len(told) > 1, within_s=120)
    finally:
        rig.close()
        receiver.shutdown()
        receiver.server_close()

    first, second = told
    assert ("HansangRunFailed", "critical", "prepare") == tuple(
        first["labels"][name] for name in ("alertname", "severity", "flow")
    )
    assert said == first["annotations"]["message"]
    assert "HansangRunLate" == second["labels"]["alertname"]


def test_of_three_late_nights_and_72_late_looks_the_latest_run_alone(rig, tmp_path):
    """Days without a worker: the first one that comes cancels what later ones have overtaken."""
    rig.deploy()
    begin = datetime.now(UTC) - timedelta(days=3, minutes=5)
    late = {"pipeline/pipeline": [], "drift/drift": []}
    for name, every_h, count in (("pipeline/pipeline", 24, 3), ("drift/drift", 1, 72)):
        deployment = rig.get(f"/deployments/name/{name}")["id"]
        for number in range(count):
            due = (begin + timedelta(hours=every_h * number)).isoformat()
            state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
            path = f"/deployments/{deployment}/create_flow_run"
            late[name].append(rig.post(path, {"state": state})["id"])
    by_hand = rig.start_run("pipeline/pipeline", {})
    # The scheduler alone may set this.
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db", timeout=60)) as database:
        ours = [run for runs in late.values() for run in runs]
        database.executemany(
            "UPDATE flow_run SET auto_scheduled = 1 WHERE id = ?", [(run,) for run in ours]
        )
        database.commit()

    for pool in ("hansang", "hansang-cpu"):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from flows.prefect_setup import worker;"
             "worker._make_up_for_the_latest(['--pool', sys.argv[1]])", pool],
            env=rig.env, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"Prefect: {rig.url} (by PREFECT_API_URL)" in done.stdout
        assert f"pool {pool}: {71 if pool == 'hansang' else 2} overtaken" in done.stdout

    for runs in late.values():
        assert ["CANCELLED"] * (len(runs) - 1) == [rig.state(run)["type"] for run in runs[:-1]]
        assert "SCHEDULED" == rig.state(runs[-1])["type"]
    assert "SCHEDULED" == rig.state(by_hand)["type"]


def test_a_run_that_was_taken_and_never_started_is_given_back(rig):
    """A worker killed between taking and starting it, or a pod deleted while its image comes."""
    rig.deploy(more="never_started_s=30")
    run = rig.start_run("prepare/prepare", {"data": "x"})
    rig.post(f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}, "force": True})

    rig.until(lambda: rig.state(run)["name"] == "AwaitingRetry", within_s=180)
    assert "not started within 30 s" in rig.state(run)["message"]


def test_two_gpus_train_two_runs_at_once_under_names_that_say_what(rig, photos, tmp_path):
    """One pool with a place for each GPU; each worker has one, and each gets a run."""
    rig.deploy(gpus=2)
    pool = rig.get("/work_pools/hansang-gpu")
    assert 2 == pool["concurrency_limit"]
    for number in ("0", "1"):
        with (tmp_path / "worker.log").open("a") as log:
            rig.workers.append(subprocess.Popen(
                [sys.executable, "-m", "flows.worker", "--pool", "hansang-gpu", "--type", "process",
                 "--name", f"gpu-{number}"],
                cwd=tmp_path, env=rig.env | {"CUDA_VISIBLE_DEVICES": number}, stdout=log,
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            ))  # fmt: skip
    parameters = {
        "data": str(photos),
        "training": {"epochs": 400, "image_size": 32, "device": "cpu",
                     "overrides": {"batch_size": "16", "threads": "1"}},
        "places": {"runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")},
    }  # fmt: skip
    for _ in range(2):
        rig.start_run("train/train", parameters)

    rig.until(lambda: len(list(tmp_path.glob("runs/*/config.json"))) == 2, within_s=240)

    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert all(re.fullmatch(r"photos-scratch-\d{8}-\d{4}-[0-9a-f]{6}", name) for name in names)
    locks = {path.name.rsplit("-", 1)[1] for path in rig.home.glob("hansang-*-gpu-?.lock")}
    assert {"0.lock", "1.lock"} <= locks


def test_a_pool_of_kubernetes_jobs_keeps_its_template_and_takes_every_flow(rig):
    """What trains asks for a GPU, what is light for none; no pool is made that nobody polls."""
    path = ROOT / "deploy" / "kubernetes" / "prefect" / "job-template.json"
    template = json.loads(path.read_text())
    rig.post("/work_pools/", {"name": "hansang", "type": "kubernetes", "concurrency_limit": 7,
                              "base_job_template": template})  # fmt: skip

    rig.deploy(gpus=1)
    again = rig.deploy(gpus=1)

    assert {"unchanged", "left as it is: kubernetes"} == {change["what"] for change in again}
    pools = {pool["name"]: pool for pool in rig.post("/work_pools/filter", {})}
    assert {"hansang"} == set(pools)
    assert template == pools["hansang"]["base_job_template"]
    assert 7 == pools["hansang"]["concurrency_limit"]
    found = {each["name"]: each for each in rig.post("/deployments/filter", {})}
    assert {"hansang"} == {each["work_pool_name"] for each in found.values()}
    asked = {name: each["job_variables"].get("gpus") for name, each in found.items()}
    default = template["variables"]["properties"]["gpus"]["default"]
    assert ("0", "1", None) == (default, asked["pipeline"], asked["drift"])


def test_the_nights_to_come_are_scheduled(rig):
    """The cron of the deployment becomes runs, or no night would ever come.

    SQLAlchemy 2.1 breaks Prefect 3.8.8's scheduler, which says so in the server's log alone.
    """
    rig.deploy()
    wanted = {
        "deployments": {"name": {"any_": ["pipeline"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }

    rig.until(lambda: rig.post("/flow_runs/count", wanted) > 0, within_s=150)


def test_a_release_waits_for_a_person_without_a_process_and_is_then_published(
    rig, run_dir, tmp_path
):
    """The form shows the table; answered, the run goes on without measuring again."""
    rig.deploy()
    rig.start_worker("hansang")
    repository = tmp_path / "models"
    run = rig.start_run(
        "release/release", {"run_dir": str(run_dir), "places": {"repository": str(repository)}}
    )

    rig.until(lambda: rig.state(run)["type"] == "PAUSED", within_s=300)

    pid = rig.pid(run)
    rig.until(lambda: not Path(f"/proc/{pid}").exists(), within_s=60)
    assert not (repository / "food42" / "config.pbtxt").exists()
    keyset = rig.state(run)["state_details"]["run_input_keyset"]
    form = f"{rig.url}/flow_runs/{run}/input/{keyset['description']}"
    with urllib.request.urlopen(form, timeout=10) as answer:  # noqa: S310
        text = answer.read().decode()
    assert "| top-1 |" in text
    assert "report.html" in text
    (exported,) = run_dir.glob("export/*/model.onnx")
    before = exported.stat().st_mtime_ns

    rig.post(f"/flow_runs/{run}/resume", {"run_input": {"release": True, "who": "Kim",
                                                        "reason": "seen"}})  # fmt: skip

    rig.until(lambda: rig.state(run)["type"] in ("COMPLETED", "FAILED"), within_s=300)
    assert "Released" == rig.state(run)["name"], rig.state(run)
    assert [exported] == list(run_dir.glob("export/*/model.onnx"))
    assert before == exported.stat().st_mtime_ns
    (line,) = map(json.loads, (repository / "food42" / "history.jsonl").read_text().splitlines())
    assert line["reason"].endswith("approved: seen, Kim")
