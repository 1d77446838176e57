"""How a server is reached: its key and headers, and whether it is on this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.parse

from aloe.config import OpenAIModel
from aloe.errors import UserError


def is_loopback(url: str) -> bool:
    """Whether an address means this machine, in any spelling: no proxy stands between then."""
    host = (urllib.parse.urlsplit(url).hostname or "").lower().rstrip(".")
    if host in ("localhost", "ip6-localhost", "ip6-loopback") or host.endswith(".localhost"):
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host))  # 127.1, 0x7f.1, 2130706433
    except (OSError, ValueError):
        return None


def key_of(model: OpenAIModel) -> str:
    """The key, from the environment.

    Raises:
        UserError: there is none, and the server is on another machine.
    """
    key = os.environ.get(model.api_key_env)
    if key:
        return key
    if is_loopback(model.base_url):
        return "none"  # servers on this machine rarely want one
    raise UserError(
        f"environment variable {model.api_key_env}: expected the key for {model.base_url}"
    )


def headers_of(model: OpenAIModel) -> dict[str, str]:
    """``extra_headers``, with values from the environment.

    Raises:
        UserError: one is missing there.
    """
    found = {}
    for name, value in model.extra_headers.items():
        found[name] = os.environ.get(value[1:], "") if value.startswith("$") else value
        if not found[name]:
            raise UserError(
                f"environment variable {value[1:]}: expected the header {name} for {model.base_url}"
            )
    return found
