"""Servers whose TLS a client must refuse, and one that it may trust."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import trustme

from tests.waiting import until


def server_context(authority: trustme.CA, name: str = "localhost", **options: Any) -> ssl.SSLContext:
    """Return a server's side with a certificate of *authority* for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def sha1(authority: trustme.CA, folder: Path) -> ssl.SSLContext:
    """Return a chain that was signed with SHA-1."""
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (folder / "ca.key").write_bytes(authority.private_key_pem.bytes())
    (folder / "ext").write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost",
        "x509 -req -sha1 -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    return context


async def tls_1_0(authority: trustme.CA, folder: Path, port: int) -> subprocess.Popen[Any]:
    """Return a server that speaks TLS 1.0 and nothing else, and says so by an alert (asyncio's would just reset)."""
    pem = folder / "leaf.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    command = f"openssl s_server -accept {port} -naccept 99 -tls1 -cipher ALL:@SECLEVEL=0 -quiet -cert {pem} -key {pem}"
    process = subprocess.Popen(
        command.split(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("localhost", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await until(listens)
    return process
