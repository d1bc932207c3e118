"""The hub as far as an upload needs it, on a port of this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What was asked for, and the files of the one commit that it took."""

    def __init__(self, refuse: bool = False):
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuse = refuse
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict]:
        if self.refuse:
            return 403, {"error": "You may not."}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/{self.created[0]['organization']}/tuned"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            rows = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return 200, {"files": rows}
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    assert line["value"]["encoding"] == "base64"
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            done = {"commitUrl": f"{self.url}/a/b/commit/1", "commitOid": "1", "success": True}
            return 200, done
        return 404, {"error": path}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers["Authorization"])
            length = self.headers["Content-Length"]
            body = self.rfile.read(int(length)) if length else self._chunks()
            self._send(*hub.answer(self.path.split("?")[0], body))

        def do_GET(self) -> None:
            self._send(200, {"siblings": [], "sha": "0", "id": "a/b"})

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        def _send(self, code: int, reply: dict) -> None:
            data = json.dumps(reply).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words) -> None:
            pass

    return Handler
