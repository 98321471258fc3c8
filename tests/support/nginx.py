"""A real nginx with the configuration of ``docs/how-to/deploy.md``, where the machine has the program."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.pages import Page
from tests.support.processes import GuardedServer, accepts, free_port

# Paths are in the server's own folder; the page's part follows.
_SETTINGS = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{page}
}}
"""


def nginx_program() -> str | None:
    """Find the program; Debian puts it where an ordinary user's PATH does not lead."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def page_settings(port: int, workers: Sequence[int]) -> str:
    """Return the page's configuration, with ports of this machine in place of the page's addresses and certificate."""
    (settings,) = Page("docs/how-to/deploy.md").blocks("nginx")
    listening = "listen 443 ssl;"
    addresses = re.findall(r"10\.0\.0\.\d:8000", settings)
    assert listening in settings
    assert len(addresses) == len(workers)
    for address, worker in zip(addresses, workers, strict=True):
        settings = settings.replace(address, f"127.0.0.1:{worker}")
    return settings.replace(listening, f"listen 127.0.0.1:{port};")


@contextmanager
def running_nginx(program: str, workers: Sequence[int]) -> Iterator[int]:
    """Run nginx in front of workers at these ports, as the page has it; yield the loopback port it listens at."""
    port = free_port()
    server = GuardedServer("nginx")
    try:
        settings = server.folder / "nginx.conf"
        settings.write_text(_SETTINGS.format(page=page_settings(port, workers)))
        server.give(settings)
        command = (program, "-p", f"{server.folder}/", "-c", settings.name, "-e", "stderr")
        server.start(*command, ready=lambda: accepts(port))
        yield port
    finally:
        server.close()
