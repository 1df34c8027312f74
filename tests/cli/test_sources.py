"""Session files that come from elsewhere: bounded, and worth nothing unless the ledger has their hash."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from node.agreement import open_session
from node.cli.options import ways
from node.config import FILE_LIMIT
from node.errors import SessionFileError
from node.home import bind_home, keep_session_file, lock_home
from node.sources import Ways, is_remote, read_source, session_cid
from tests.cli.test_bad_input import home, run, says, session_file  # noqa: F401  (fixtures)
from tests.nodes import TASK, NodeProcess, make_home, make_session, running

pytestmark = pytest.mark.real


@pytest.fixture
def web():
    """A web server that answers each path with what the test put there: a function of the request."""
    pages = {}

    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            pass

        def do_GET(self):
            try:
                pages[self.path](self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", pages
        server.shutdown()


def page(content: bytes, status: int = 200, **headers: str):
    def answer(request):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def drip(request):
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"#")
        time.sleep(0.05)


def test_a_session_file_at_a_url_is_checked_against_the_ledger(run, session_file, web):  # noqa: F811
    url, pages = web
    pages["/session.toml"] = page(session_file.read_bytes())
    result = run("session", "verify", f"{url}/session.toml", "--json")
    assert result.exit_code == 0, result.output
    assert '"valid": true' in result.stdout
    pages["/session.toml"] = page(session_file.read_bytes().replace(b"rounds = 4", b"rounds = 5"))
    assert says(run("session", "verify", f"{url}/session.toml"), url, "altered")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page(b"", 404), "404"),
        (page(b"#" * (FILE_LIMIT + 1)), "larger"),
        (page(gzip.compress(bytes(200 << 20)), Content_Encoding="gzip"), "larger"),
        (page(b"no gzip", Content_Encoding="gzip"), "cannot be read"),
        (page(b"", 302, Location="/session.toml"), "redirects"),
        (page(b"", 302, Location="file:///etc/passwd"), "cannot be read"),
        (page(b"# half", Content_Length="1000"), "cannot be read"),
        (drip, "within 1 s"),
        (lambda request: time.sleep(3), "within 1 s|cannot be read"),
    ],
    ids=["missing", "large", "bomb", "garbage", "loop", "file", "cut off", "slow", "silent"],
)
def test_a_server_that_misbehaves_costs_a_line(web, answer, words):
    url, pages = web
    pages["/session.toml"] = answer
    began = time.monotonic()
    with pytest.raises(SessionFileError, match=words):
        read_source(f"{url}/session.toml", Ways(seconds=1))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://127.0.0.1:1/x", "https://127.0.0.1:99999/x"])
def test_a_url_that_leads_nowhere_costs_a_line(url):
    with pytest.raises(SessionFileError, match="ask the session's creator"):
        read_source(url, Ways(seconds=1))


def test_a_cid_without_anybody_to_ask_says_how(run):  # noqa: F811
    assert says(run("session", "verify", session_cid(b"nothing")), "--ipfs", "--peers")


def test_a_file_that_is_named_like_a_cid_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = session_cid(b"name")
    assert is_remote(name)
    (tmp_path / name).write_bytes(b"content")
    assert read_source(name, Ways()) == b"content"


def test_a_cid_names_exactly_one_content():
    liar = Ways(ask=lambda cid, seconds: b"something else")
    with pytest.raises(SessionFileError, match="does not have its hash"):
        read_source(session_cid(b"content"), liar)


def test_another_session_at_a_url_leaves_the_file_of_a_home_as_it_is(run, session_file, home, chain, tmp_path, web):  # noqa: F811
    """Its RPC is the one that `fl-node snapshot unpin` asks what the ledger protects."""
    url, pages = web
    opened = open_session(session_file, chain.url)
    bind_home(home, opened.session_id, opened.session.name)
    keep_session_file(home, opened.content)
    make_session(home, chain, tmp_path / "other.toml", rounds=7)
    pages["/session.toml"] = page((tmp_path / "other.toml").read_bytes())
    begin = ("start", "--session", f"{url}/session.toml", "--home", home.path, "--task", f"{TASK}:task")
    with lock_home(home):
        assert says(run(*begin), home.path, "in use")
    assert home.session_file.read_bytes() == opened.content
    assert says(run(*begin), home.path, f"belongs to session {opened.session_id:016x}")
    assert home.session_file.read_bytes() == opened.content
    pages["/session.toml"] = page(b"rounds = 1")
    assert says(run(*begin), url)


def test_a_node_starts_from_a_url_or_from_a_cid_that_a_member_has(run, session_file, home, tmp_path, web):  # noqa: F811
    url, pages = web
    pages["/session.toml"] = page(session_file.read_bytes())
    creator = NodeProcess(home, f"{url}/session.toml", "--no-mdns")
    with running([creator]):
        at = creator.address()
        assert (home.path / "session.toml").read_bytes() == session_file.read_bytes()
        cid = session_cid(session_file.read_bytes())
        verified = run("session", "verify", cid, "--peers", at, "--json")
        assert verified.exit_code == 0, verified.output
        member = NodeProcess(make_home(tmp_path / "bob"), cid, "--no-mdns", "--peers", at)
        with running([member]):
            member.wait_for(lambda status: any(peer["connected"] for peer in status.get("peers", [])))
        with pytest.raises(SessionFileError, match="no peer gave"):
            read_source(session_cid(b"another"), Ways(ask=ways(None, (at,)).ask, seconds=1))
