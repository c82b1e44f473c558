"""What Airflow's API and the webhook answer, and where they do not."""

from __future__ import annotations

import socket
import threading

import pytest

from dags.api import send


def test_an_address_that_is_none_is_an_error_of_the_system() -> None:
    """Whoever writes notes goes on without them then."""
    for address in ("http://127.0.0.1:None/x", "no address"):
        with pytest.raises(OSError, match="POST"):
            send("POST", address, {})


def test_a_server_of_something_else_is_one_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match=r"BadStatusLine|RemoteDisconnected"):
            send("POST", f"http://127.0.0.1:{server.getsockname()[1]}/x", {})
        thread.join()
