"""The process of ``lpft serve``: its address, its end, many clients at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import toy_texts
from toy_files import toy_data, toy_settings

from lpft.errors import InputError
from lpft.runs.train import train_run
from lpft.serve.server import listen
from lpft.settings.configs import make_config

pytest.importorskip("fastapi", reason="the serve extra is not installed")
httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")

PATIENCE = 300.0
JSON = "Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = toy_data(folder / "data") | toy_settings(tiny_bert, "lp")
    return train_run(make_config(settings, folder / "toy")).folder


class Service:
    """A process of ``lpft serve`` that answers, and what it has written on standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            if line.startswith("serving "):
                break
        self.port = int(self.lines[-1].partition("http://")[2].split()[0].rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        out, err = self.process.communicate(timeout=PATIENCE)
        self.lines += err.splitlines(keepends=True)
        assert out == ""
        return self.process.returncode


@contextmanager
def serving(run: Path, *options: object, cwd: Path | None = None) -> Iterator[Service]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lpft", "serve", str(run), "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        yield Service(process)
    finally:
        process.kill()
        process.wait()


def predict(url: str, body: Any) -> Any:
    answer = httpx.post(f"{url}/predict", json=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@contextmanager
def request_under_way(port: int) -> Iterator[socket.socket]:
    """A request whose body the service has begun to read: it has asked for it."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        length = len(json.dumps({"text": "good"}))
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{JSON}"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        yield connection


def rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(4096), b""))


def refused(lpft, *arguments: object) -> str:
    outcome = lpft("serve", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_port_in_use_is_named_with_the_option_that_changes_it(lpft, run):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        message = refused(lpft, run, "--port", port)
        assert f"port {port} on 127.0.0.1 is in use" in message
        assert "another --port" in message


def test_an_address_that_is_not_this_machines_is_named(lpft, run):
    for host in ("192.0.2.1", "nowhere.invalid", "not an address", "ä" * 80):
        message = refused(lpft, run, "--host", host, "--port", 0)
        assert f"--host '{host}' is no address of this machine" in message


def test_a_port_that_is_not_permitted_is_named(monkeypatch):
    def bind(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(InputError, match=r"port 80 on 127\.0\.0\.1 is not permitted"):
        listen("127.0.0.1", 80)


def test_wrong_options_and_folders_are_refused_before_anything_is_loaded(lpft, run, tmp_path):
    wrong = {
        ("--port", 65536): "--port 65536 must be a whole number from 0 to 65535",
        ("--port", "http"): "--port 'http' must be a whole number",
        ("--batch-texts", 0): "--batch-texts 0 must be",
        ("--batch-wait", -1): "--batch-wait -1 must be",
        ("--batch-wait", "nan"): "--batch-wait",
        ("--max-bytes", 0): "--max-bytes 0 must be",
        ("--abstain-below", 2): "--abstain-below 2 must be",
        ("--abstain-below", 0.5, "--target-accuracy", 0.9): "exclude each other",
        ("--target-accuracy", 0.9999, "--port", 0): "--target-accuracy 0.9999",
    }
    for options, says in wrong.items():
        assert says in refused(lpft, run, *options)
    assert "is not a folder" in refused(lpft, tmp_path / "nothing")
    assert "contains no trained classifier" in refused(lpft, tmp_path, "--port", 0)


def test_a_missing_extra_is_named(lpft, run, monkeypatch):
    monkeypatch.setattr("lpft.serve.server.find_spec", lambda name: name != "uvicorn" or None)
    message = refused(lpft, run)
    assert "pip install 'lpft[serve]'" in message
    assert "uvicorn is missing" in message


@pytest.mark.heavy
def test_it_is_on_this_machine_alone_and_fifty_clients_get_what_lpft_predict_gives(lpft, run):
    texts, _ = toy_texts(200, seed=4)
    lines = lpft("predict", run, "--text", *texts).out.splitlines()
    expected = [json.loads(line) for line in lines]
    with serving(run) as service:
        assert not [line for line in service.lines if "authentication" in line]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", service.port), timeout=PATIENCE)
        health = httpx.get(f"{service.url}/health", timeout=PATIENCE).json()
        assert (health["status"], health["name"]) == ("ready", "toy")
        start = threading.Barrier(50)

        def client(number: int) -> list[tuple[int, Any]]:
            """Several requests on one connection, single texts and lists."""
            found = []
            with httpx.Client(timeout=PATIENCE) as session:
                start.wait()
                for row in range(number, len(texts), 50):
                    asked = {"text": texts[row]} if row % 3 else {"texts": texts[row : row + 2]}
                    answer = session.post(f"{service.url}/predict", json=asked)
                    assert answer.status_code == 200, answer.text
                    found += enumerate(answer.json()["predictions"], start=row)
            return found

        with ThreadPoolExecutor(50) as pool:
            answers = [one for found in pool.map(client, range(50)) for one in found]
        assert {row for row, _ in answers} == set(range(len(texts)))
        for row, found in answers:
            assert found["label"] == expected[row]["label"]
            assert found["probabilities"] == pytest.approx(expected[row]["probabilities"], abs=1e-6)
        assert service.stop(signal.SIGTERM) == 0
    assert not "".join(service.lines[1:])


@pytest.mark.heavy
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_request_under_way_is_answered_before_the_process_ends(run, number, status):
    with serving(run) as service, request_under_way(service.port) as connection:
        service.process.send_signal(number)
        # what comes now finds no one; the request that has begun is still read and answered
        while socket.socket().connect_ex(("127.0.0.1", service.port)) == 0:
            assert service.process.poll() is None
        connection.sendall(json.dumps({"text": "good"}).encode())
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"predictions"' in answer
        assert service.ended() == status
    assert "Traceback" not in "".join(service.lines)
    assert len(service.lines) == (1 if status == 0 else 2)


@pytest.mark.heavy
def test_killed_it_leaves_no_file_and_its_port(run, tmp_path):
    before = files(run)
    with serving(run, "--host", "0.0.0.0", cwd=tmp_path) as service:
        warning = next(line for line in service.lines if "authentication" in line)
        assert warning.startswith("warning: the service has no authentication")
        assert predict(service.url, {"text": "good"})
        with request_under_way(service.port):
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        port = service.port
    assert files(run) == before
    assert not list(tmp_path.iterdir())
    with listen("127.0.0.1", port):
        pass


@pytest.mark.heavy
def test_its_targets_are_those_of_lpft_predict_and_bad_requests_do_not_end_it(lpft, run):
    texts, _ = toy_texts(30, seed=5)
    lines = lpft("predict", run, "--target-coverage", 0.5, "--text", *texts).out.splitlines()
    expected = [json.loads(line)["abstained"] for line in lines]
    with serving(run, "--target-coverage", 0.5, "--max-bytes", 5000) as service:
        for content in (os.urandom(400), b"\0" * 5001, b"GET / HTTP/1.1\r\n\r\n", b"[" * 4000):
            with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as raw:
                raw.sendall(content + b"\r\n\r\n")
                raw.shutdown(socket.SHUT_WR)
                rest(raw)
            answer = httpx.post(
                f"{service.url}/predict",
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=PATIENCE,
            )
            assert answer.status_code in (413, 422)
        with request_under_way(service.port):
            pass  # a client that leaves before it has sent anything
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as endless:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{JSON}\r\n"
            endless.sendall(head.encode() + b"fffff\r\n" + b" " * 5001)
            assert endless.recv(100).startswith(b"HTTP/1.1 413")  # and it has not ended
        found = predict(service.url, {"texts": texts})
        assert [one["abstained"] for one in found] == expected
        assert len(set(expected)) == 2
        assert np.allclose([sum(one["probabilities"].values()) for one in found], 1)
        assert service.stop(signal.SIGTERM) == 0
    assert not "".join(service.lines[1:])
