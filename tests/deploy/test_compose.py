"""compose.yaml: by the compose specification's own schema, and by what it names here. (No Docker engine is needed.)"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

import kilowatch
from kilowatch.config import Settings
from tests.deploy.dockerfile import parse

ROOT = Path(__file__).parents[2]
FILES = ("compose.yaml", "compose.dev.yaml")
SECRETS = {"secret_key", "database_password", "history_password", "admin_password", "tls_certificate", "tls_key"}


def document(name: str, **variables: str) -> dict[str, Any]:
    """The file with its variables filled in, as compose does: `${NAME:-default}`."""
    text = (ROOT / name).read_text()
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)
    assert "${" not in filled, "each variable has a default"
    read: dict[str, Any] = yaml.safe_load(filled)
    return read


def follows(schema: str, path: Path) -> str:
    """What is wrong in a file, by a schema that comes with check-jsonschema; "" if nothing is."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


@pytest.fixture
def compose() -> dict[str, Any]:
    return document("compose.yaml")


@pytest.fixture
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


class TestFile:
    @pytest.mark.parametrize("name", FILES)
    def test_follows_the_specification(self, name: str) -> None:
        assert follows("compose-spec", ROOT / name) == ""

    def test_that_does_not_follow_it_would_be_told(self, tmp_path: Path) -> None:
        wrong = tmp_path / "compose.yaml"
        wrong.write_text(
            (ROOT / "compose.yaml").read_text().replace("    networks: [stores]\n", "    network: stores\n", 1)
        )
        assert "'network' was unexpected" in follows("compose-spec", wrong)

    @pytest.mark.parametrize("name", FILES)
    def test_names_files_that_are_there_or_made(self, name: str) -> None:
        read = document(name)
        for service in read["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (ROOT / source).exists(), source
                else:
                    assert source in read["volumes"], source
        for secret, place in read.get("secrets", {}).items():
            assert place == {"file": f"deploy/secrets/{secret}"}

    def test_names_secrets_networks_and_services_that_are_there(self, compose: dict[str, Any]) -> None:
        assert compose["secrets"].keys() == SECRETS
        for service in compose["services"].values():
            assert set(service.get("secrets", ())) <= SECRETS
            assert set(service["networks"]) <= compose["networks"].keys()
            assert set(service.get("depends_on", ())) <= compose["services"].keys()
            said = json.dumps(service)
            assert set(re.findall(r"/run/secrets/(\w+)", said)) <= set(service.get("secrets", ()))

    @pytest.mark.parametrize("name", FILES)
    def test_sets_only_what_is_a_setting(self, name: str) -> None:
        known = {f"KILOWATCH_{field.upper()}" for field in Settings.model_fields}
        for service in document(name)["services"].values():
            for variable in service.get("environment", {}):
                if variable.startswith("KILOWATCH_"):
                    assert variable in known

    @pytest.mark.parametrize("name", FILES)
    def test_has_no_secret_in_it(self, name: str) -> None:
        for service in document(name)["services"].values():
            for variable, value in service.get("environment", {}).items():
                if re.search(r"PASSWORD|SECRET|KEY|TOKEN", variable):
                    assert variable.endswith("_FILE")
                    assert re.fullmatch(r"/run/secrets/\w+", value)
                assert not re.search(r"://[^@/]*:[^@/]*@", str(value)), "a URL with a password"

    def test_is_read_as_settings(self, services: dict[str, Any], monkeypatch: Any, tmp_path: Path) -> None:
        for name, value in services["app"]["environment"].items():
            monkeypatch.setenv(name, re.sub("^/run/secrets", str(tmp_path), value))
        for secret in SECRETS:
            (tmp_path / secret).write_text("kG5-unguessable-0123456789-ABCDEFGH\n")
        monkeypatch.setenv("KILOWATCH_ENVIRONMENT", "production")
        settings = Settings()
        assert settings.resolved_database_url.startswith("postgresql+psycopg://kilowatch:kG5")
        assert settings.resolved_history_url.startswith("clickhouse://kilowatch:kG5")


class TestServices:
    def test_have_nothing_that_they_do_not_need(self, services: dict[str, Any]) -> None:
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["logging"]["options"]["max-size"], name
            assert service["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}, name
            assert "privileged" not in service, name
        assert [name for name, service in services.items() if "cap_add" in service] == ["database"]
        assert [name for name, service in services.items() if "ports" in service] == ["app", "proxy"]
        assert all(port.startswith("127.0.0.1:") for port in services["app"]["ports"])  # metrics, for this machine

    def test_start_again_by_themselves_but_for_the_job(self, services: dict[str, Any]) -> None:
        restarts = {name: service["restart"] for name, service in services.items()}
        assert restarts.pop("init") == restarts.pop("backup") == "no"
        assert set(restarts.values()) == {"unless-stopped"}

    def test_start_when_what_they_need_is_ready(self, services: dict[str, Any]) -> None:
        conditions = {
            name: {needed: how["condition"] for needed, how in service.get("depends_on", {}).items()}
            for name, service in services.items()
        }
        stores = {"database": "service_healthy", "history": "service_healthy"}
        assert conditions == {
            "database": {},
            "history": {},
            "init": stores,
            "backup": stores,
            "app": stores | {"init": "service_completed_successfully"},
            "proxy": {"app": "service_healthy"},
        }
        stages = parse(ROOT / "Dockerfile")
        assert any(step.word == "HEALTHCHECK" for step in stages["app"].steps)
        for name in ("database", "history", "proxy"):
            assert services[name]["healthcheck"]["test"][0] == "CMD"

    def test_reach_only_whom_they_need(self, compose: dict[str, Any], services: dict[str, Any]) -> None:
        networks = {name: set(service["networks"]) for name, service in services.items()}
        assert not networks["proxy"] & networks["database"]
        assert not networks["proxy"] & networks["history"]
        assert networks["proxy"] & networks["app"] == {"front"}, "or the app would see another address than it trusts"
        assert compose["networks"]["stores"]["internal"] is True
        assert compose["networks"]["front"]["internal"] is True

    def test_trust_the_address_that_the_proxy_has(self, services: dict[str, Any]) -> None:
        proxy = services["proxy"]["networks"]["front"]["ipv4_address"]
        assert services["app"]["environment"]["FORWARDED_ALLOW_IPS"] == proxy
        app = services["app"]["networks"]["front"]["ipv4_address"]
        assert app != proxy
        assert services["proxy"]["extra_hosts"] == [f"app:{app}"], "known before the app runs"
        moved = document("compose.yaml", KILOWATCH_PROXY_ADDRESS="10.9.8.7")["services"]
        assert moved["app"]["environment"]["FORWARDED_ALLOW_IPS"] == "10.9.8.7"

    def test_images_have_a_version_and_can_have_a_digest(self, services: dict[str, Any]) -> None:
        text = (ROOT / "compose.yaml").read_text()
        images = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
        assert len(images) == 4
        for image in images:
            assert re.fullmatch(r"\$\{KILOWATCH_(\w+_)?IMAGE:-[\w./-]+:[\w.-]+\}", image), image
            assert not image.endswith(":latest}")
        for name in ("app", "init", "backup"):
            assert services[name]["image"] == f"kilowatch:{kilowatch.__version__}"
        assert services["proxy"]["image"] == f"kilowatch-proxy:{kilowatch.__version__}"
        digest = "kilowatch@sha256:" + "0" * 64
        assert document("compose.yaml", KILOWATCH_IMAGE=digest)["services"]["app"]["image"] == digest

    def test_write_where_they_may(self, services: dict[str, Any]) -> None:
        """The proxy to /tmp, and bodies to a volume; the app to its volume, to /tmp, and what it counts elsewhere."""
        written = re.findall(r"(?:pid|_path) (/\S+);", (ROOT / "deploy/nginx/container.conf").read_text())
        (bodies,) = [path for path in written if not path.startswith("/tmp/")]
        assert len(written) == 6
        (volume,) = services["proxy"]["volumes"]
        assert bodies.startswith(volume.split(":")[1] + "/")
        proxy = parse(ROOT / "Dockerfile")["proxy"]
        assert proxy.last("VOLUME").text == volume.split(":")[1], "whose owner the volume takes over"
        assert f"-o {services['proxy']['user'].split(':')[0]} " in proxy.last("RUN").text
        for name in ("app", "init", "proxy"):
            assert any(mount.startswith("/tmp") for mount in services[name]["tmpfs"])
        app = services["app"]
        place = app["environment"]["RUNTIME_DIRECTORY"]
        counted = next(mount for mount in app["tmpfs"] if mount.startswith(f"{place}:"))
        assert "size=" in counted
        user = parse(ROOT / "Dockerfile")["app"].last("USER").text.split(":")[0]
        assert f"uid={user}," in counted
        for name in ("app", "init", "backup"):
            assert services[name]["volumes"] == ["app:/var/lib/kilowatch"]


class TestWorkflow:
    def test_of_continuous_integration_follows_its_schema(self) -> None:
        assert follows("github-workflows", ROOT / ".github/workflows/ci.yml") == ""


class TestForDevelopers:
    def test_opens_ports_to_this_machine_alone(self) -> None:
        for service in document("compose.dev.yaml")["services"].values():
            for port in service.get("ports", []):
                assert port.startswith("127.0.0.1:")


class TestClickHouse:
    def _names(self, file: str, path: str) -> set[str]:
        found = etree.parse(str(ROOT / "deploy/clickhouse" / file)).getroot().find(path)
        assert found is not None
        return {child.tag for child in found if isinstance(child.tag, str)}

    def test_is_given_settings_that_the_engine_has(self, history_directory: Path) -> None:
        import chdb

        def known(table: str) -> set[str]:
            connection = chdb.connect(str(history_directory))
            try:
                return set(connection.query(f"SELECT name FROM system.{table}", "TSV").data().split())
            finally:
                connection.close()

        assert self._names("users.xml", "profiles/default") <= known("settings")
        assert self._names("config.xml", ".") & known("server_settings") >= {
            "max_server_memory_usage_to_ram_ratio",
            "mark_cache_size",
            "max_connections",
            "max_concurrent_queries",
        }

    def test_has_one_user_and_its_password_from_the_secret(self) -> None:
        users = etree.parse(str(ROOT / "deploy/clickhouse/users.xml")).getroot().find("users")
        assert users is not None
        assert [(user.tag, user.get("remove")) for user in users if isinstance(user.tag, str)] == [
            ("default", "remove"),
            ("kilowatch", None),
        ]
        password = users.find("kilowatch/password_sha256_hex")
        assert password is not None
        assert password.get("from_env") == "KILOWATCH_PASSWORD_SHA256"
        assert not (password.text or "").strip()
        assert "export KILOWATCH_PASSWORD_SHA256" in (ROOT / "deploy/clickhouse/start").read_text()
