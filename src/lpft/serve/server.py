"""The process of ``lpft serve``: its address is taken first, then the model is loaded."""

import errno
import ipaddress
import logging
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from lpft.errors import InputError, named
from lpft.settings import Backend, Device, OutputSettings
from lpft.settings.commands import ServingSettings

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 60
"""How long requests that have arrived are waited for once the service is stopped."""


def run_service(
    folder: Path,
    settings: ServingSettings,
    threshold: OutputSettings,
    device: Device = "auto",
    backend: Backend | None = None,
) -> None:
    """Serve a trained classifier until the process is told to stop.

    Requests that have arrived are answered; then SIGTERM ends the process with status 0 and Ctrl-C
    raises KeyboardInterrupt. Nothing is written.

    Raises:
        InputError: the extra is missing, the address cannot be used, or the classifier not be read.
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"lpft serve needs the 'serve' extra, which is not installed ({missing[0]} is "
            "missing): run pip install 'lpft[serve]'"
        )
    with listen(settings.host, settings.port) as listener:
        # uvicorn raises the signal again once it has stopped; until it begins, this is the handler.
        signal.signal(signal.SIGTERM, _end)
        # These load torch, for which a wrong address need not wait.
        import uvicorn

        from lpft.runs.predict import open_backend, threshold_of
        from lpft.serve.app import make_app

        saved = open_backend(folder, backend, device)
        app = make_app(saved, settings, threshold_of(saved, threshold))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                log_level="critical",  # its tracebacks may quote a text; app.py logs errors
                server_header=False,
                timeout_graceful_shutdown=SECONDS_TO_STOP,
                ws="none",
            )
        )
        host, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            logger.warning(
                "the service has no authentication: everyone who can reach %s port %s can use it",
                host,
                port,
            )
        address = f"[{host}]" if ":" in host else host
        logger.info("serving %s at http://%s:%s (Ctrl-C stops it)", folder, address, port)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; clients wait in its backlog until the model is loaded.

    Raises:
        InputError: the address is not this machine's, or its port is in use or not permitted.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise _no_address(host) from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} on {host} is in use: stop the program that uses it, or choose "
                f"another {named('port')}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(
                f"port {port} on {host} is not permitted: choose a {named('port')} from 1024 on"
            ) from error
        raise _no_address(host) from error
    return listener


def _no_address(host: str) -> InputError:
    return InputError(
        f"{named('host')} '{host}' is no address of this machine: expected 127.0.0.1 for this "
        "machine alone, one of its addresses, or 0.0.0.0 for all of them"
    )


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)
