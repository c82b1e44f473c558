"""Airflow's own API, for what has no other way: notes, and starting runs from outside."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 30


def send(method: str, url: str, body: Mapping[str, Any] | None = None, token: str | None = None) -> dict[str, Any]:
    """JSON there and back. Raises: OSError, with the server's words where it answers with an error.

    Also where it does not speak HTTP, or the address is none.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    content = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{method} {url}: {error.code} {error.read().decode(errors='replace')[:500]}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{method} {url}: {type(error).__name__}: {error}") from error
    said: dict[str, Any] = json.loads(answer) if answer.strip().startswith(b"{") else {}
    return said


@dataclass
class Api:
    """`address` is that of the API server, such as http://127.0.0.1:8080."""

    address: str
    login: str
    password: str
    _token: str | None = field(default=None, repr=False)

    def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`path` is relative to /api/v2. Raises: OSError."""
        if self._token is None:
            who = {"username": self.login, "password": self.password}
            self._token = str(send("POST", f"{self.address}/auth/token", who)["access_token"])
        return send(method, f"{self.address}/api/v2/{path}", body, self._token)
