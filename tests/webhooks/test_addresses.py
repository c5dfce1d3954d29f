"""Where a webhook may go."""

import socket
from ipaddress import ip_address

import pytest

from kilowatch.webhooks.addresses import Addresses, BadTarget, Reach, Target, reach_of


class TestReach:
    @pytest.mark.parametrize(
        "address",
        [
            "8.8.8.8",
            "100.63.255.255",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ],
    )
    def test_of_a_host_on_the_internet_is_public(self, address: str) -> None:
        assert reach_of(ip_address(address)) is Reach.PUBLIC

    @pytest.mark.parametrize(
        "address",
        [
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fc00::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::c0a8:101",
            "2002:7f00:1::",
            "2002:a00:1::1",
        ],
    )
    def test_of_a_private_network_is_private_however_it_is_written(self, address: str) -> None:
        assert reach_of(ip_address(address)) is Reach.PRIVATE

    @pytest.mark.parametrize(
        "address",
        [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::7f00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "fe80::1",
            "fe80::1%eth0",
            "2606:4700::1111%eth0",
            "fec0::1",
            "ff02::1",
        ],
    )
    def test_of_what_is_nobodys_host_is_nowhere(self, address: str) -> None:
        assert reach_of(ip_address(address)) is Reach.NOWHERE


class TestAddresses:
    @pytest.mark.parametrize("found", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["2606:4700::1111", "::1"], []])
    def test_of_a_host_are_refused_if_one_of_them_is_private(self, found: list[str]) -> None:
        with pytest.raises(BadTarget, match=r"hook\.test is not on the internet.*KILOWATCH_WEBHOOK_PRIVATE_ADDRESSES"):
            Addresses(private=False, resolve=lambda *_: found).of("hook.test", 443)

    def test_are_those_that_were_judged(self) -> None:
        found = ["8.8.8.8", "2606:4700::1111"]
        assert Addresses(private=False, resolve=lambda *_: found).of("hook.test", 443) == found

    def test_may_be_private_where_that_is_allowed(self) -> None:
        assert Addresses(private=True, resolve=lambda *_: ["192.168.1.5", "::1"]).of("nas", 80) == [
            "192.168.1.5",
            "::1",
        ]

    @pytest.mark.parametrize("found", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"])
    def test_that_are_nowhere_are_refused_even_then(self, found: str) -> None:
        with pytest.raises(BadTarget, match="nothing can be sent to"):
            Addresses(private=True, resolve=lambda *_: [found]).of("hook.test", 80)

    @pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost", "localhost."])
    def test_of_other_spellings_of_this_machine_are_refused(self, host: str) -> None:
        with pytest.raises(BadTarget):
            Addresses(private=False).of(host, 80)

    def test_of_a_name_that_nobody_has_are_none(self) -> None:
        def resolve(_host: str, _port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        with pytest.raises(BadTarget, match=r"hook\.test has no address"):
            Addresses(private=False, resolve=resolve).of("hook.test", 80)

    def test_of_a_name_that_can_not_be_looked_up_are_none(self) -> None:
        with pytest.raises(BadTarget, match="has no address"):
            Addresses(private=False).of("a" * 70 + ".test", 80)


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "target"),
        [
            ("https://Example.org", ("https", "example.org", 443, "/")),
            ("http://example.org:8080/a/b?c=d&e", ("http", "example.org", 8080, "/a/b?c=d&e")),
            ("https://[2606:4700::1111]:8443/x", ("https", "2606:4700::1111", 8443, "/x")),
            ("https://xn--bcher-kva.example/?", ("https", "xn--bcher-kva.example", 443, "/")),
        ],
    )
    def test_is_the_url_in_parts(self, url: str, target: tuple[str, str, int, str]) -> None:
        assert Target.parse(url) == target

    @pytest.mark.parametrize(
        ("url", "authority"),
        [
            ("https://example.org:443/", "example.org"),
            ("http://example.org:443/", "example.org:443"),
            ("https://[2606:4700::1111]:8443/x", "[2606:4700::1111]:8443"),
        ],
    )
    def test_names_the_port_that_is_not_the_usual_one(self, url: str, authority: str) -> None:
        assert Target.parse(url).authority == authority
