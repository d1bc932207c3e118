"""An OpenAI-compatible server as far as a client needs it, on a port of this machine."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Twin:
    """Answers "ids 3" or "chat 2": what it was asked and how much of it; `turns` may differ.

    `before` holds (status, body) of replies to give first, whatever is asked.
    """

    def __init__(
        self, takes_ids: bool = True, models=("tuned", "plain"), extra: int = 0, port: int = 0
    ):
        self.takes_ids, self.models, self.extra = takes_ids, models, extra
        self.before: list[tuple[int, bytes]] = []
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict | None) -> tuple[int, bytes]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if self.before:
                self.at_once -= 1
                return self.before.pop(0)
        if body is not None:
            self.bodies.append(body | {"path": path})
            time.sleep(0.02)
        found = self._said(path, body)
        with self._lock:
            self.at_once -= 1
        return found[0], json.dumps(found[1]).encode()

    def _said(self, path: str, body: dict | None) -> tuple[int, dict]:
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.models]}
        if body and path == "/v1/completions":
            if not self.takes_ids:
                return 400, {"error": "prompt must be a string"}
            count = len(body["prompt"])
            return 200, self._reply({"text": f"ids {count}"}, count)
        if body and path == "/v1/chat/completions":
            text = f"chat {len(body['messages'])}"
            count = sum(len(message["content"]) for message in body["messages"])
            return 200, self._reply({"message": {"role": "assistant", "content": text}}, count)
        return 404, {"error": path}

    def _reply(self, choice: dict, count: int) -> dict:
        usage = {"prompt_tokens": count + self.extra, "completion_tokens": 2}
        return {"choices": [choice], "usage": usage}


def _handler(twin: Twin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            self._send(*twin.answer(self.path, json.loads(self.rfile.read(size))))

        def do_GET(self) -> None:
            self._send(*twin.answer(self.path, None))

        def _send(self, code: int, reply: bytes) -> None:
            twin.keys.add(self.headers["Authorization"])
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", reply.decode())
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *words) -> None:
            pass

    return Handler
