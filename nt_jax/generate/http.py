"""JSON to a server and back: busy servers are asked again, redirects are not followed.

A key comes from the environment variable KEY alone; it is written nowhere, and cut out of whatever
a server says.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from nt_jax.errors import RunError
from nt_jax.limits import REPLY_BYTES, parse_json

KEY = "NT_JAX_API_KEY"
TIMEOUT = 600.0  # seconds that one reply may take
PAUSES = (1.0, 4.0, 16.0)  # seconds before asking again what a busy server did not answer
_BUSY = frozenset({429, 502, 503, 504})
KEPT = "Answers so far are kept: start the server, then repeat this command."
HINT = "Is eval.url the address of an OpenAI-compatible server, with its /v1?"


class UnansweredError(RunError):
    """A request that somebody took and did not answer, however often it was asked."""


class RefusedError(Exception):
    """A status that asking again does not change; its text is the status and what was said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"{code}: {said}")
        self.code = code


def send(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON reply to a POST of `body`, or to a GET without one.

    Raises RefusedError where the server says no, an UnansweredError where it fails on this request,
    and another RunError where nobody is there.
    """
    reason = ""
    for pause in (*PAUSES, None):
        try:
            return _json(_request(url, body))
        except urllib.error.HTTPError as error:
            said = _said(error)
            if error.code not in _BUSY:
                raise RefusedError(error.code, said) from None
            reason = f"{error.code} {error.reason}"
        except (OSError, HTTPException, ValueError) as error:  # nobody there, cut off, or no JSON
            reason = " ".join(without_key(str(getattr(error, "reason", error))).split())[:300]
            if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                raise RunError(f"no answer from {url} ({reason}). {HINT} {KEPT}") from None
        if pause is not None:
            time.sleep(pause)
    raise UnansweredError(f"no answer from {url} ({reason}). {HINT}")


def without_key(text: str) -> str:
    """A text in which the key is no longer to be read."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _request(url: str, body: Mapping[str, Any] | None) -> bytes:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with _OPENER.open(request, timeout=TIMEOUT) as reply:
        content = reply.read(REPLY_BYTES.value + 1)
    if len(content) > REPLY_BYTES.value:
        raise ValueError(f"more than {REPLY_BYTES.value:,} bytes")
    return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _said(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says beside a status, on one line; closes the connection."""
    try:
        with error:
            said = error.read(2000).decode("utf-8", "replace")
    except (OSError, HTTPException):  # cut off
        said = ""
    return " ".join(without_key(said).split())[:300]


def _json(data: bytes) -> dict[str, Any]:
    found = parse_json(data)
    if not isinstance(found, dict):
        raise ValueError("the reply is no JSON object")
    return found
