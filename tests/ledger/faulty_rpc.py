"""A real HTTP proxy before a real chain, which can hang, talk garbage, forget answers, or lead to another chain."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyRpc:
    """What answers at `url`: the chain at `upstream`, unless `fault` says otherwise.

    Faults: None, "hang", "trickle", "garbage", "wrong shape", "error", "lose answer" (to a transaction).
    """

    def __init__(self, upstream):
        self.upstream = upstream
        self.fault = None
        self.forged = {}  # method: bytes to answer with instead
        self.twists = {}  # method: function that makes another result of the chain's
        self.released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                proxy.serve(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, request, body):
        answers = {"garbage": b"<html>502 Bad Gateway</html>", "wrong shape": b'[{"a":1}]', "error": NO_SUCH}
        if self.fault == "hang":
            self.released.wait(30)
            return self._close(request)
        if self.fault == "trickle":
            return self._trickle(request)
        if self.fault in answers:
            return self._answer(request, answers[self.fault])
        for method, answer in self.forged.items():
            if f'"{method}"'.encode() in body:
                return self._answer(request, answer)
        try:
            answer = self._forward(body)
        except urllib.error.URLError:
            return self._close(request)
        if self.fault == "lose answer" and b"eth_sendRawTransaction" in body:
            return self._close(request)
        return self._answer(request, self._twisted(body, answer))

    def _twisted(self, body, answer):
        for method, twist in self.twists.items():
            if f'"{method}"'.encode() in body:
                said = json.loads(answer)
                return json.dumps({**said, "result": twist(said["result"])}).encode()
        return answer

    def _forward(self, body):
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.upstream, body, headers), timeout=20) as found:
            return found.read()

    def _trickle(self, request):
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not self.released.wait(0.1):
            try:
                request.wfile.write(b" ")
            except OSError:
                return self._close(request)
        return self._close(request)

    def _answer(self, request, content):
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _close(self, request):
        request.close_connection = True


NO_SUCH = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"the method does not exist"}}'
