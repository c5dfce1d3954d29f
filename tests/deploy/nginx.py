"""A real nginx with the configuration that is shipped, before real servers.

`python -m tests.deploy.nginx` says whether there is one, and if not, how to get it; scripts/setup asks that.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import DEADLINE_S, free_port, wait_until

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx"
NO_NGINX = (
    "The tests of the deployment need nginx 1.22 or newer, and none was found. On Debian: "
    "`sudo apt-get update && sudo apt-get install --no-install-recommends nginx`; elsewhere from your system's "
    "packages; or name one: `NGINX=/path/to/nginx make test`."
)
_MAIN = """
{user}
pid {here}/nginx.pid;
error_log {here}/error.log notice;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3; # as Debian's own nginx.conf, which ours has to override
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    include conf.d/*.conf;
}}
"""


class NoNginx(Exception):
    pass


def find_nginx() -> str:
    """Its path: that of $NGINX, or the system's. Raises `NoNginx`."""
    named = os.environ.get("NGINX")
    found = shutil.which(named) if named else shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if found is None:
        raise NoNginx(f"NGINX={named} is not a program. {NO_NGINX}" if named else NO_NGINX)
    return found


def nginx_version() -> tuple[int, ...]:
    said = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    assert found is not None, said
    return tuple(map(int, found.groups()))


def make_certificate(directory: Path) -> None:
    """A key and a certificate of its own for localhost, by the script that is shipped."""
    subprocess.run([SHIPPED.parent / "make-secrets", directory, "localhost"], check=True, capture_output=True)


@dataclass
class Nginx:
    """deploy/nginx as it is shipped, at free ports, before the application at `upstream_port`."""

    directory: Path
    upstream_port: int
    http_port: int = field(default_factory=free_port)
    https_port: int = field(default_factory=free_port)
    believes: str | None = None
    """Who, in a proxy's place before this one, is believed about a client's address, as server.conf shows."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        return self.directory / "access.log"

    @property
    def public(self) -> Path:
        return self.directory / "public"

    @property
    def trust(self) -> ssl.SSLContext:
        """Of a client that believes this server alone."""
        return ssl.create_default_context(cafile=str(self.directory / "secrets" / "tls_certificate"))

    def render(self, name: str = "server.conf", places: Mapping[str, str] | None = None) -> None:
        """Write the configuration, with nothing replaced but where things are."""
        for part in ("body", "conf.d", "optional"):
            (self.directory / part).mkdir(exist_ok=True)
        if not (self.directory / "secrets").exists():
            make_certificate(self.directory / "secrets")
        shutil.copytree(SHIPPED / "kilowatch", self.directory / "kilowatch", dirs_exist_ok=True)
        shutil.copytree(SHIPPED / "errors", self.public / "errors", dirs_exist_ok=True)
        lines = (SHIPPED / name).read_text().splitlines(keepends=True)
        text = "".join(line for line in lines if "listen [::]" not in line)  # not every machine has IPv6
        for place, here in (places or self._places()).items():
            assert place in text, f"{name} no longer has {place!r}"
            text = text.replace(place, here)
        if self.believes is not None:
            lines_of_proxy = re.findall(r"^#     (set_real_ip_from .*|real_ip_.*)$", text, re.MULTILINE)
            assert len(lines_of_proxy) == 3
            text = "\n".join([*lines_of_proxy, text]).replace("10.0.0.0/8", self.believes)
        user = "user root;" if os.geteuid() == 0 else ""
        main = self.directory / "nginx.conf"
        if name == "server.conf":
            main.write_text(_MAIN.format(here=self.directory, user=user))
            (self.directory / "conf.d" / "kilowatch.conf").write_text(text)
        else:
            main.write_text(text)
        redirect = self.directory / "kilowatch" / "redirect.conf"
        redirect.write_text(redirect.read_text().replace("/var/www/acme", str(self.directory / "acme")))

    def _places(self) -> Mapping[str, str]:
        return {
            "listen 80 ": f"listen 127.0.0.1:{self.http_port} ",
            "listen 443 ": f"listen 127.0.0.1:{self.https_port} ",
            "127.0.0.1:8000": f"127.0.0.1:{self.upstream_port}",
            "/etc/kilowatch/tls/certificate.pem": str(self.directory / "secrets" / "tls_certificate"),
            "/etc/kilowatch/tls/key.pem": str(self.directory / "secrets" / "tls_key"),
            "/var/log/nginx/kilowatch.log": str(self.log),
            "/srv/kilowatch": str(self.public),
        }

    def test(self) -> str:
        """What `nginx -t` says; fails if it finds a fault."""
        done = subprocess.run(
            [find_nginx(), "-t", "-c", self.directory / "nginx.conf", "-g", "daemon off;"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self) -> "Nginx":
        self.render()
        self.test()
        self.process = subprocess.Popen(
            [find_nginx(), "-c", self.directory / "nginx.conf", "-g", "daemon off;"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "nginx answers")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.https_port)) == 0

    def bytes_held(self) -> int:
        """Of bodies that wait on the disk, in files that have no name any more."""
        assert self.process is not None
        main = self.process.pid
        workers = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        files = [file for worker in workers for file in Path(f"/proc/{worker}/fd").iterdir()]
        return sum(file.stat().st_size for file in files if (self.directory / "body") in file.readlink().parents)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEADLINE_S)
            self.process.kill()


if __name__ == "__main__":
    try:
        print(find_nginx())  # noqa: T201 - what its caller reads
    except NoNginx as missing:
        sys.exit(str(missing))
