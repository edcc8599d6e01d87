"""The Dockerfile's own steps, run without docker: a wheel, an environment, a service that answers.

Dependencies come from the environment of the tests. With LPFT_TEST_CONTAINER=clean they are
downloaded into an empty one, as docker would do it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from exportable import classifier_of, saved

pytest.importorskip("uvicorn", reason="the serve extra is not installed")
pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[2]
CLEAN = os.environ.get("LPFT_TEST_CONTAINER") == "clean"
PATIENCE = 600.0


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines: an instruction and what follows it."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def copy_context(target: Path) -> None:
    """What .dockerignore lets through, and of it what a clone has."""
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run([*listed, *allowed], capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def test_the_steps_of_the_dockerfile_make_a_service_that_answers(tmp_path):
    image = tmp_path / "image"
    venv.create(image / "venv", with_pip=True)
    python = image / "venv/bin/python"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "LPFT", "VIRTUAL_ENV"))
    } | {"PATH": f"{image / 'venv/bin'}:{os.environ['PATH']}"}
    if not CLEAN:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = image / "venv/lib" / version / "site-packages"
        for old in packages.glob("setuptools*"):  # that of Python 3.11's venv is too old to build
            shutil.rmtree(old)
        (packages / "tests.pth").write_text(sysconfig.get_paths()["purelib"])
        environment |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_ARGS": ""}
    model = saved(classifier_of("bert", "mean"), tmp_path / "model")

    def inside(text: str) -> str:
        text = re.sub(r"(?<=[ \"/])/(source|wheels)\b", rf"{image}/\1", text)
        return text.replace("file:/" + str(image), "file://" + str(image))

    user, health, entry = "root", [], []
    for name, rest in instructions():
        match name:
            case "ARG":
                variable, _, default = rest.partition("=")
                environment.setdefault(variable, shlex.split(default)[0])
            case "ENV":
                environment |= dict(part.split("=") for part in rest.split())
            case "COPY" if rest.startswith("--from="):
                pass  # the stages share a folder here
            case "COPY" if rest.startswith(". "):
                copy_context(Path(inside(rest)[2:]))
            case "COPY":
                source, target = inside(rest).split()
                shutil.copy(ROOT / source, target)
            case "RUN" if not rest.startswith("useradd"):
                done = subprocess.run(
                    inside(rest), shell=True, env=environment, cwd=image, capture_output=True
                )
                assert done.returncode == 0, (done.stdout + done.stderr).decode()
            case "USER":
                user = rest
            case "HEALTHCHECK":
                health = json.loads(rest.partition("CMD ")[2])
            case "ENTRYPOINT":
                entry = json.loads(rest)
    assert user != "root"
    (wheel,) = (image / "wheels").glob("*.whl")
    assert "lpft/serve/templates/page.html.j2" in zipfile.ZipFile(wheel).namelist()
    where = [python, "-c", "import lpft; print(lpft.__file__)"]
    found = subprocess.run(where, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(image))

    command = [str(model) if part == "/model" else part for part in entry]
    with subprocess.Popen(
        [image / "venv/bin" / command[0], *command[1:], "--port", "0"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            port = line.split("http://")[1].split()[0].rpartition(":")[2]
            checked = [part.replace(":8000/", f":{port}/") for part in health]
            assert f":{port}/health" in checked[-1]
            subprocess.run(checked, env=environment, check=True, timeout=PATIENCE)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/predict",
                data=json.dumps({"text": "good film"}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                (one,) = json.load(answer)["predictions"]
            assert sum(one["probabilities"].values()) == pytest.approx(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) == 0
        finally:
            process.kill()
