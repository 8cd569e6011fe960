"""A web server on loopback for tests of downloads: each address answers as its list of pages says, faults included."""

from __future__ import annotations

import datetime
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Page:
    """One answer.

    data      the body that the file has
    etag, date  marks of the version
    ranges    whether `Range` is honoured; `shift`: a lie about where the range begins
    cut       bytes of the body after which the connection is closed; `after` is called before it is
    length    the Content-Length, when it is another than the true one; -1: none, the end is where the connection ends
    chunked   sent in chunks, without a length
    status, headers  sent as they are
    more      bytes that follow the body
    """

    data: bytes = b""
    etag: str = ""
    date: str = ""
    ranges: bool = True
    shift: int = 0
    cut: int | None = None
    after: Callable[[], None] = lambda: None
    length: int | None = None
    chunked: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    more: bytes = b""


class Site:
    """The pages by path, one after the other, the last for ever; and the requests that came."""

    def __init__(self) -> None:
        self.pages: dict[str, list[Page]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.base = ""
        self.ended = threading.Event()

    def put(self, path: str, *pages: Page) -> str:
        self.pages[path] = list(pages)
        return self.base + path

    def asked(self, header: str) -> list[str]:
        return [headers.get(header, "") for _, headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None: ...

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.requests.append((self.path, dict(self.headers)))
        pages = self.site.pages.get(self.path.partition("?")[0])
        if pages is None:
            self.send_error(404)
            return
        page = pages.pop(0) if len(pages) > 1 else pages[0]
        start = self._start(page)
        body = page.data[start:] + page.more
        self.send_response(206 if start else page.status)
        for name, value in {"ETag": page.etag, "Last-Modified": page.date, **page.headers}.items():
            if value:
                self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start + page.shift}-{len(page.data) - 1}/{len(page.data)}")
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif page.length != -1:
            self.send_header("Content-Length", str(len(body) if page.length is None else page.length))
        self.send_header("Connection", "close")
        self.end_headers()
        self._send(page, body)

    def _start(self, page: Page) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        wanted = self.headers.get("If-Range", page.etag or page.date)
        if not match or not page.ranges or page.status != 200 or wanted != (page.etag or page.date):
            return 0
        return int(match[1])

    def _send(self, page: Page, body: bytes) -> None:
        cut = len(body) if page.cut is None else page.cut
        try:
            for at in range(0, min(cut, len(body)), 4096):
                part = body[at : min(at + 4096, cut)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if page.chunked else part)
            self.wfile.flush()
            page.after()
            if page.chunked and page.cut is None:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client has left
            pass


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Site]:
    """Serve on a free port of loopback until the block ends, by https with this certificate and key."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.base = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> Path:
    """Return a file with a new key and its certificate for 127.0.0.1, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    day = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(day - datetime.timedelta(days=1))
        .not_valid_after(day + datetime.timedelta(days=2))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(*form) + signed.public_bytes(serialization.Encoding.PEM))
    return file
