"""Snapshots in a Kubo daemon: a real Kubo core where the wheel is there, and stand-ins that misbehave."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import base58
import pytest
import trio

from node.errors import ContentMissing, StorageError
from node.storage import Bounds, Label, open_snapshots
from node.storage.catalogue import Catalogue
from node.storage.cid import DAG_PB, RAW, cid_of_block, format_cid, parse_cid
from node.storage.dagpb import Link, encode_node
from node.storage.kubo_rpc import KuboRpc, daemon_address

FILES = {"update": b"payload", "mixed.safetensors": bytes(range(256)) * 1200}
CID = "bafybeif7hpdcdvrplrvuymqowt3tsxyxhyqthmpydcvhtxvmd5zlgpwcei"


@pytest.fixture
async def kubo(kubo_url, tmp_path):
    async with open_snapshots(tmp_path / "alice", kubo_url, bounds=Bounds(seconds=20)) as snapshots:
        yield snapshots


@pytest.fixture
def stand_in():
    """A daemon that answers each command with what the test put there: (status, content)."""
    answers = {"version": (200, b'{"Version": "0.36.0"}')}

    class Rpc(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            pass

        def do_POST(self):
            while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                self.rfile.read(size + 2)
            command = self.path.removeprefix("/api/v0/").partition("?")[0]
            status, content = answers.get(command, (404, b"404 page not found"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Rpc) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        thread.join()


@pytest.mark.real
async def test_kubo_and_the_embedded_store_agree_on_the_cid(kubo, tmp_path):
    async with open_snapshots(tmp_path / "bob") as embedded:
        assert await kubo.add(FILES) == await embedded.add(FILES)


@pytest.mark.real
async def test_what_kubo_keeps_is_read_back_listed_and_fetched(kubo, tmp_path):
    cid = await kubo.add({**FILES, "on-disk": _written(tmp_path / "x", b"z" * 600_000)})
    assert await kubo.read(cid, "update", 100) == b"payload"
    assert [(entry.name, entry.size) for entry in await kubo.entries(cid)] == [
        ("mixed.safetensors", 307_200),
        ("on-disk", 600_000),
        ("update", 7),
    ]
    assert await kubo.fetch_to(cid, "mixed.safetensors", tmp_path / "out", 1 << 20) == 307_200
    assert (tmp_path / "out").read_bytes() == FILES["mixed.safetensors"]
    with pytest.raises(StorageError, match="more than the 100 bytes"):
        await kubo.read(cid, "mixed.safetensors", 100)


@pytest.mark.real
async def test_kubo_keeps_what_is_pinned_and_collects_what_is_not(kubo):
    kept = await kubo.add({"update": b"kept"}, Label(1, 2, 3))
    gone = await kubo.add({"update": b"gone"})
    await kubo.unpin(gone)
    assert (await kubo.gc()).blocks >= 2
    assert [pin.label for pin in await kubo.pins() if pin.cid == kept] == [Label(1, 2, 3)]
    assert await kubo.read(kept, "update", 100) == b"kept"
    with pytest.raises(ContentMissing):
        await kubo.read(gone, "update", 100)


@pytest.mark.real
async def test_a_pin_that_this_node_did_not_make_is_left_alone(kubo, kubo_url, tmp_path):
    theirs = await kubo.add({"update": b"of the user"})
    async with open_snapshots(tmp_path / "bob", kubo_url) as bob:
        assert await bob.pins() == []
        with pytest.raises(StorageError, match="not pinned by this node"):
            await bob.unpin(theirs)
        await bob.pin(theirs, Label(1, 1, 1))
        assert [pin.cid for pin in await bob.pins()] == [theirs]


@pytest.mark.real
async def test_content_that_kubo_cannot_find_is_missing_before_the_deadline(kubo_url, tmp_path):
    async with open_snapshots(tmp_path / "alice", kubo_url, bounds=Bounds(seconds=1.5)) as kubo:
        with pytest.raises(StorageError):
            await kubo.pin(CID)


async def test_a_daemon_that_is_not_there_is_one_error_with_its_address_and_the_cure(tmp_path):
    with pytest.raises(StorageError, match=r"Kubo at http://127\.0\.0\.1:1 .*ipfs daemon.*embedded"):
        async with open_snapshots(tmp_path, "http://127.0.0.1:1"):
            pass


async def test_a_server_that_is_no_kubo_is_one_error(stand_in, tmp_path):
    url, answers = stand_in
    for nonsense in ((404, b"<html>"), (200, b"<html>"), (200, b"[1, 2]"), (500, b"{}")):
        answers["version"] = nonsense
        with pytest.raises(StorageError, match="Kubo"):
            async with open_snapshots(tmp_path, url):
                pass


async def test_a_daemon_that_computes_another_cid_is_an_error_and_no_pin(stand_in, tmp_path):
    url, answers = stand_in
    answers["add"] = (200, json.dumps({"Name": "snapshot", "Hash": CID}).encode())
    answers["pin/ls"] = (200, b'{"Keys": {}}')
    async with open_snapshots(tmp_path, url) as kubo:
        with pytest.raises(StorageError, match=r"Kubo computed bafy.* where bafy.* was due"):
            await kubo.add(FILES)
        assert await kubo.pins() == []


@pytest.mark.parametrize("rest", [b"", b'{"Hash": "%s"}' % CID.encode(), b'{"Name": "snapshot"}', b"[7]"])
async def test_an_add_that_the_daemon_breaks_off_is_an_error_and_no_pin(stand_in, tmp_path, rest):
    """Its disk is full after the first file, for one: the status and that file's line are out already."""
    url, answers = stand_in
    answers["add"] = (200, json.dumps({"Name": "snapshot/update", "Hash": CID}).encode() + b"\n" + rest)
    answers["pin/ls"] = (200, b'{"Keys": {}}')
    async with open_snapshots(tmp_path, url) as kubo:
        with pytest.raises(StorageError, match=r"Kubo at http.* added only a part: look at its log and disk"):
            await kubo.add(FILES)
        assert await kubo.pins() == []


async def test_what_a_slow_daemon_pins_after_the_time_is_over_can_be_released(stand_in, tmp_path, monkeypatch):
    url, answers = stand_in
    async with open_snapshots(tmp_path / "bob") as embedded:
        cid = await embedded.add(FILES)
    answers["add"] = (200, json.dumps({"Name": "snapshot", "Hash": cid}).encode())
    answers["pin/ls"] = (200, json.dumps({"Keys": {cid: {"Type": "recursive"}}}).encode())
    asked, answered, listed = threading.Event(), threading.Event(), threading.Event()
    add, record = KuboRpc.add_directory, Catalogue.record

    def add_slowly(rpc, directory):
        asked.set()
        assert answered.wait(10)
        return add(rpc, directory)

    def record_and_say(catalogue, pin, digests):
        record(catalogue, pin, digests)
        listed.set()

    monkeypatch.setattr(KuboRpc, "add_directory", add_slowly)
    monkeypatch.setattr(Catalogue, "record", record_and_say)
    async with open_snapshots(tmp_path, url) as kubo:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kubo.add, FILES, Label(1, 2, 3))
            assert await trio.to_thread.run_sync(asked.wait, 10)
            nursery.cancel_scope.cancel()
        assert await kubo.pins() == []
        answered.set()
        assert await trio.to_thread.run_sync(listed.wait, 10)
        assert [(pin.cid, pin.label) for pin in await kubo.pins()] == [(cid, Label(1, 2, 3))]


@pytest.mark.parametrize(
    ("command", "said", "ask"),
    [
        ("repo/stat", b'{"RepoSize": "much"}', lambda kubo: kubo.size()),
        ("repo/stat", b'{"RepoSize": "-1"}', lambda kubo: kubo.size()),
        ("repo/stat", b'{"RepoSize": true}', lambda kubo: kubo.size()),
        ("repo/stat", b'{"RepoSize": "%s"}' % (b"9" * 5000), lambda kubo: kubo.size()),
        ("pin/ls", b'{"Keys": 7}', lambda kubo: kubo.pins()),
        ("id", b'{"Addresses": 7}', lambda kubo: kubo.addresses()),
    ],
)
async def test_an_answer_of_another_kind_is_one_error(stand_in, tmp_path, command, said, ask):
    url, answers = stand_in
    answers[command] = (200, said)
    async with open_snapshots(tmp_path, url) as kubo:
        with pytest.raises(StorageError, match="is no Kubo daemon"):
            await ask(kubo)


@pytest.mark.parametrize("said", [b'{"RepoSize": 477705}', b'{"RepoSize": "477705"}'])  # as Kubo and js-ipfs say it
async def test_the_size_is_a_number_or_its_digits(stand_in, tmp_path, said):
    url, answers = stand_in
    answers["repo/stat"] = (200, said)
    async with open_snapshots(tmp_path, url) as kubo:
        assert await kubo.size() == 477705


async def test_a_cid_in_another_base_is_the_same_cid(stand_in, tmp_path):
    url, answers = stand_in
    async with open_snapshots(tmp_path / "bob") as embedded:
        cid = await embedded.add(FILES)
    told = "z" + base58.b58encode(parse_cid(cid)).decode()
    answers["add"] = (200, json.dumps({"Name": "snapshot", "Hash": told}).encode())
    answers["pin/ls"] = (200, json.dumps({"Keys": {told: {"Type": "recursive"}}}).encode())
    async with open_snapshots(tmp_path, url) as kubo:
        assert await kubo.add(FILES) == cid
        assert [pin.cid for pin in await kubo.pins()] == [cid]


async def test_bytes_that_a_daemon_forged_are_not_returned(stand_in, tmp_path):
    url, answers = stand_in
    async with open_snapshots(tmp_path / "bob") as embedded:
        cid = await embedded.add(FILES)
        directory = embedded.blocks.get(parse_cid(cid))
    answers["block/get"] = (200, directory)
    answers["cat"] = (200, b"forged!")
    async with open_snapshots(tmp_path, url) as kubo:
        with pytest.raises(StorageError, match="cannot be verified"):
            await kubo.read(cid, "update", 100)
        with pytest.raises(StorageError, match="cannot be verified"):
            await kubo.fetch_to(cid, "update", tmp_path / "out", 100)
        answers["block/get"] = (200, directory + b"\0")
        with pytest.raises(StorageError, match="wrong bytes"):
            await kubo.entries(cid)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


async def test_other_pins_of_the_daemon_may_have_cids_that_this_node_does_not_read(stand_in, tmp_path):
    url, answers = stand_in
    answers["pin/ls"] = (
        200,
        b'{"Keys": {"bafyreigaknpexyvxt76zgkitavbwx6ejgfheup5oybpm77f3pxzrvwpfdi": {}, "k51": {}}}',
    )
    async with open_snapshots(tmp_path, url) as kubo:
        assert await kubo.pins() == []


@pytest.mark.parametrize(
    ("url", "multiaddr", "auth"),
    [
        ("http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001/http", None),
        ("http://localhost", "/dns/localhost/tcp/5001/http", None),
        ("https://kubo.example/api/v0/", "/dns/kubo.example/tcp/443/https", None),
        ("http://[::1]:7", "/ip6/::1/tcp/7/http", None),
        ("https://me:p%40ss@kubo.example", "/dns/kubo.example/tcp/443/https", ("me", "p@ss")),
        ("/ip4/10.0.0.1/tcp/5001/http", "/ip4/10.0.0.1/tcp/5001/http", None),
    ],
)
def test_an_address_is_a_url_or_a_multiaddr(url, multiaddr, auth):
    assert daemon_address(url) == (multiaddr, auth)


@pytest.mark.parametrize("url", ["", "localhost:5001", "ftp://x", "http://", "http://x:y", "http://x/other"])
def test_an_address_that_is_neither_is_refused(url):
    with pytest.raises(StorageError, match="give http://HOST:PORT or a multiaddr"):
        daemon_address(url)


async def test_a_multiaddr_that_is_malformed_is_refused(tmp_path):
    with pytest.raises(StorageError, match="Kubo"):
        async with open_snapshots(tmp_path, "/ip4/300.0.0.1/tcp/5001"):
            pass


def test_a_password_is_not_shown_in_an_error():
    with pytest.raises(StorageError) as caught:
        daemon_address("ftp://me:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.real
async def test_every_block_of_a_snapshot_in_kubo_is_listed_and_a_lost_one_is_an_error(kubo, tmp_path):
    files = {"update": b"".join(n.to_bytes(4, "big") for n in range(250_000)), "mixed.safetensors": b"m" * 3000}
    cid = await kubo.add(files)
    async with open_snapshots(tmp_path / "bob") as embedded:
        assert await embedded.add(files) == cid
        theirs = await embedded.block_cids(cid)
    listed = await kubo.block_cids(cid)
    assert listed[0] == parse_cid(cid)
    assert {one[-32:] for one in listed} == {one[-32:] for one in theirs}
    assert len(listed) == len(theirs) == 7
    with pytest.raises(ContentMissing):  # the daemon has none of it, and is not to ask others
        await kubo.block_cids(CID)


async def test_a_hostile_dag_in_a_daemon_is_listed_only_to_the_bound(stand_in, tmp_path):
    url, answers = stand_in
    link = Link(cid_of_block(RAW, b""), "", 1)
    wide = encode_node([replace(link, cid=cid_of_block(RAW, bytes([n % 256, n // 256]))) for n in range(2000)], b"")
    answers["block/get"] = (200, wide)
    async with open_snapshots(tmp_path, url, bounds=Bounds(snapshot=16_384)) as kubo:
        with pytest.raises(StorageError, match="more than the 1,025 blocks"):
            await kubo.block_cids(format_cid(cid_of_block(DAG_PB, wide)))
        with pytest.raises(StorageError, match="wrong bytes"):
            await kubo.block_cids(CID)


def _written(path, content):
    path.write_bytes(content)
    return path
