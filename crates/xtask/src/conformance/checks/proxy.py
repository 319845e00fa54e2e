"""A proxy that ends a stream, cleanly, before the block that holds a marker: a server that forgets its last event."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


class CutBefore:
    """`with CutBefore(server, marker) as address`."""

    def __init__(self, server, marker):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {"content-type": "application/json"}
                with httpx.stream("POST", server + self.path, content=body, headers=headers, timeout=60) as answer:
                    text = answer.read().decode()
                self.send_response(answer.status_code)
                self.send_header("content-type", answer.headers["content-type"])
                self.send_header("connection", "close")
                self.end_headers()
                kept = text.split(marker)[0] if marker in text else text
                self.wfile.write(kept[: kept.rindex("\n\n") + 2].encode())
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_):
        self.server.shutdown()
