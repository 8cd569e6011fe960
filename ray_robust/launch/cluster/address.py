"""Whether a Ray cluster answers at an address, asked before Ray is: Ray itself goes on trying for minutes.

Owns the forms in which an address may be written, the probe, and what is reported when nothing answers. Starts nothing
and joins nothing. Ray is imported only to translate an address as it does itself (`auto`, `localhost`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ray_robust.errors import UserError
from ray_robust.launch.cluster import private_apis

PATIENCE = 8.0  # seconds in all until a cluster must have answered; a head under load answers within one
NODE_PATIENCE = 4  # seconds until a node of it must be seen on this machine
LOCAL = "local"  # the address that starts a cluster on this machine
HEALTH = "/grpc.health.v1.Health/Check"  # gRPC's own health protocol, which a cluster's head serves
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # of Ray alone: a gRPC server of another kind does not know it
FORMS = "write HOST:PORT (6379 is Ray's usual port), auto or local"


@dataclass(frozen=True)
class Address:
    """A cluster's address as it was given, and `where`: `--address X` or `RAY_ADDRESS=X`, for messages."""

    text: str
    where: str


def address_of(option: str | None) -> Address | None:
    """Return the address that Ray would take: the option, else RAY_ADDRESS, which also decides what `auto` is; None for
    a cluster on this machine alone."""
    set_here = (os.environ.get("RAY_ADDRESS") or "").strip()
    text = (option or "").strip()
    if set_here and text in ("", "auto"):
        return None if set_here == LOCAL else Address(set_here, f"RAY_ADDRESS={set_here}")
    return None if text in ("", LOCAL) else Address(text, f"--address {text}")


def check_address(option: str | None) -> None:
    """Check that a cluster answers at `--address` or RAY_ADDRESS within `PATIENCE` seconds, and that this machine is
    one of its nodes. Raises UserError, in one line, otherwise."""
    address = address_of(option)
    if address is None:
        return
    _check_form(address)
    host, port = _as_ray_does(address)
    head = _written(host, port)
    if why := probe(host, port, PATIENCE):
        resolved = "" if address.text == head else f" ({head})"
        raise UserError(f"{address.where}: no Ray cluster answers there{resolved}: {why}")
    if address.text != "auto" and not private_apis.runs_node_here(head, NODE_PATIENCE):
        raise UserError(f"{address.where}: this machine is no node of that cluster; run the command on one that is, or "
                        "submit it with ray job submit")  # fmt: skip


def _check_form(address: Address) -> None:
    """Raises UserError for what can be no address of a cluster's head."""
    scheme = address.text.partition("://")[0]
    if "://" in address.text:
        if scheme == "ray":
            what = ("Ray Client (ray://) cannot run a sweep; run the command on a node of the cluster with --address "
                    "auto, or submit it with ray job submit")  # fmt: skip
        elif scheme in ("http", "https"):
            what = f"is an address of a dashboard, not of a cluster; {FORMS}, or submit the command with ray job submit"
        else:
            what = f"Ray knows no {scheme}:// here; {FORMS}"
        raise UserError(f"{address.where}: {what}")
    if address.text == "auto":
        return
    host, _, port = address.text.rpartition(":")
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65536 or any(map(str.isspace, host)):
        raise UserError(f"{address.where}: is no address of a Ray cluster; {FORMS}")


def _as_ray_does(address: Address) -> tuple[str, int]:
    """The host and port that Ray would connect to; of `localhost` it makes the IP of this node. Raises UserError."""
    try:
        text = private_apis.resolve_address(address.text)
    except (ConnectionError, ValueError, OSError) as error:
        why = "no cluster runs on this machine" if address.text == "auto" else _line(error)
        raise UserError(f"{address.where}: no Ray cluster answers there: {why}; {FORMS}") from None
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def probe(host: str, port: int, patience: float) -> str:
    """Return why no head of a Ray cluster answers at that host and port within `patience` seconds; "" when one does."""
    until = time.monotonic() + patience
    why = _resolves(host, port, patience / 2)
    if why:
        return why
    try:
        with socket.create_connection((host, port), timeout=max(1.0, (until - time.monotonic()) / 2)):
            pass
    except TimeoutError:
        return "nothing accepts a connection"
    except OSError as error:
        return (error.strerror or _line(error)).lower()
    return _answers(_written(host, port), until)


def _resolves(host: str, port: int, patience: float) -> str:
    """Why a name has no address, "" when it has one. In a thread: a name server that is away blocks for long."""
    result: list[str] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            result.append("")
        except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is too long or empty
            result.append(f"the name {host} does not resolve ({getattr(error, 'strerror', None) or error})")

    thread = threading.Thread(target=resolve, name="resolve", daemon=True)
    thread.start()
    thread.join(patience)
    return result[0] if result else f"the name {host} does not resolve (no name server answers)"


def _answers(target: str, until: float) -> str:
    """Why what listens there is no head of a Ray cluster, "" when it is one."""
    import grpc

    other = "something listens there, but it is no head of a Ray cluster"
    for method in (HEALTH, ALIVE):
        with _channel(target) as channel:
            call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
            try:
                call(b"", timeout=max(1.0, until - time.monotonic()))
            except grpc.RpcError as error:
                code = error.code()
                if code == grpc.StatusCode.UNIMPLEMENTED:
                    return f"{other} (port 10001 is Ray Client's; the head's is usually 6379)"
                if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                    return "something accepts connections, but says nothing"
                if code == grpc.StatusCode.UNAVAILABLE:
                    return other
                return ""  # it speaks gRPC and wants a token, say: Ray will report what
    return ""


def _channel(target: str):
    """A gRPC channel as Ray makes one: past any web proxy, and with TLS where RAY_USE_TLS says so."""
    import grpc

    options = (("grpc.enable_http_proxy", 0),)
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(target, options=options)
    files = (os.environ.get(f"RAY_TLS_{name}") for name in ("CA_CERT", "SERVER_KEY", "SERVER_CERT"))
    parts = [Path(file).read_bytes() if file else None for file in files]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts), options=options)


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
