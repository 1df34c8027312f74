import socket
import threading
import time
from contextlib import contextmanager

import pytest

from ledger import AccountUnfunded, Chain, ChainUnreachable, WrongChain, connect
from ledger.errors import RpcRefused
from ledger.rpc import Rpc
from ledger.transact import transact
from tests.ledger.faulty_rpc import FaultyRpc

pytestmark = pytest.mark.real


@pytest.fixture
def rpc(devnet):
    with FaultyRpc(devnet.url) as rpc:
        yield rpc


def test_a_chain_says_its_id(devnet):
    assert connect(devnet.url).expected_id == connect(devnet.url, 31337).expected_id == 31337


def test_another_chain_than_the_expected_one_is_refused(devnet):
    with pytest.raises(WrongChain, match=r"serves chain 31337 instead of 1: give the RPC URL"):
        connect(devnet.url, 1)


@pytest.mark.parametrize("url", ["", "hello", "ftp://127.0.0.1", "http://", "ws://127.0.0.1:8545", "http://[::1"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ChainUnreachable, match=r"is no RPC URL: give one such as"):
        connect(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", r"\(nothing listens at that host and port\): is the URL right, is it up\?"),
        ("http://no-such-host.invalid:8545", r"\(there is no such host\): is the URL right, is it up\?"),
        ("http://127.0.0.1:99999", "is no RPC URL"),
    ],
)
def test_nobody_at_the_url_is_one_clear_error_with_its_cure(url, words):
    with pytest.raises(ChainUnreachable, match=words) as caught:
        connect(url)
    assert "Errno" not in str(caught.value)


def test_a_port_that_speaks_something_else_is_one_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def greet():
            for said in (b"SSH-2.0-OpenSSH_9.2\r\n", b""):
                accepted, _ = server.accept()
                with accepted:
                    accepted.recv(4096)
                    accepted.sendall(said)

        thread = threading.Thread(target=greet)
        thread.start()
        for _ in range(2):
            with pytest.raises(ChainUnreachable, match="it broke the connection off") as caught:
                connect(url)
            assert "Errno" not in str(caught.value)
        thread.join()


def test_https_where_there_is_none_is_one_clear_error(devnet):
    with pytest.raises(ChainUnreachable, match="did you mean http://"):
        connect(devnet.url.replace("http://", "https://"), timeout=2)


def test_web3_reads_the_same_chain(devnet):
    web3 = connect(devnet.url).web3
    assert web3.eth.chain_id == 31337
    assert web3.eth.get_block(0)["number"] == 0
    with pytest.raises(RpcRefused, match="refuses eth_nonsense"):
        web3.manager.request_blocking("eth_nonsense", [])


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_a_request_of_web3_ends_at_the_chains_deadline(fault, rpc):
    web3 = connect(rpc.url, timeout=0.5).web3
    rpc.fault = fault
    began = time.monotonic()
    with pytest.raises(ChainUnreachable, match=r"did not answer eth_blockNumber within 0\.5 s"):
        web3.eth.block_number  # noqa: B018
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_a_call_ends_at_its_deadline(fault, rpc):
    rpc.fault = fault
    began = time.monotonic()
    with pytest.raises(ChainUnreachable, match=r"did not answer eth_chainId within 0.3 s"):
        connect(rpc.url, timeout=0.3)
    assert time.monotonic() - began < 2


SLOW = {  # what is sent at once, and then ten times a second for ever
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "status line": (b"HTTP/1.1 2", b"0"),
    "100-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
    "chunk's size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "body to the end": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
}


@contextmanager
def trickling(begin, more):
    """A server's URL, and the number of connections that it got."""
    ended, took, threads = threading.Event(), [], []

    def serve(accepted):
        with accepted:
            try:
                accepted.recv(65536)
                accepted.sendall(begin)
                while not ended.wait(0.1):
                    accepted.sendall(more)
            except OSError:
                pass

    def accept(server):
        while not ended.is_set():
            try:
                accepted, _ = server.accept()
            except TimeoutError:
                continue
            took.append(accepted)
            threads.append(threading.Thread(target=serve, args=(accepted,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        threads.append(threading.Thread(target=accept, args=(server,)))
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", took
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("where", SLOW)
def test_a_call_ends_at_its_deadline_wherever_the_answer_trickles(where):
    with trickling(*SLOW[where]) as (url, _):
        rpc, before = Rpc(url, timeout=0.4), set(threading.enumerate())
        for _ in range(2):  # the second one finds no connection left over
            began = time.monotonic()
            with pytest.raises(ChainUnreachable, match=r"did not answer eth_chainId within 0.4 s"):
                rpc.call("eth_chainId")
            assert time.monotonic() - began < 1.5
        assert not {one for one in threading.enumerate() if isinstance(one, threading.Timer)} - before


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_named_and_not_followed(status):
    answer = b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    with trickling(answer, b"") as (url, took):
        with pytest.raises(ChainUnreachable, match="leads on to '/elsewhere': give the URL that answers itself"):
            Rpc(url, timeout=5).call("eth_chainId")
        assert len(took) == 1


def test_a_call_uses_the_connection_of_the_one_before_and_has_its_own_deadline(rpc):
    door = Rpc(rpc.url, timeout=1)
    for _ in range(4):
        door.call("eth_chainId")
        time.sleep(0.35)
    rpc.fault = "hang"
    with pytest.raises(ChainUnreachable, match="did not answer"):
        door.call("eth_chainId")
    rpc.fault = None
    assert door.call("eth_chainId") == "0x7a69"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"3",
        b"{}",
        b'{"result":null}',
        b'{"result":"0xzz"}',
        b'{"result":[]}',
        b'{"result":{"a":1}}',
        b'{"result":"' + b"9" * 5000 + b'"}',
        b"\x00\xff",
        b"[" * 100_000,
    ],
)
def test_garbage_is_one_clear_error(answer, rpc):
    rpc.forged = {"eth_chainId": answer}
    with pytest.raises(ChainUnreachable, match="it is no Ethereum RPC"):
        connect(rpc.url)


@pytest.mark.parametrize(
    "error", [b'"no"', b"null", b"7", b'{"code":"x","message":null}', b'{"data":{"data":{"data":1}}}']
)
def test_an_error_of_any_shape_is_a_refusal(error, rpc):
    rpc.forged = {"eth_chainId": b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}"}
    with pytest.raises(RpcRefused, match="refuses eth_chainId"):
        connect(rpc.url)


def test_a_batch_comes_back_in_order(devnet):
    found = connect(devnet.url).rpc.batch("eth_getBlockByNumber", [["0x0", False], ["0xffffff", False], ["0x0", False]])
    assert [block and block["number"] for block in found] == ["0x0", None, "0x0"]
    assert connect(devnet.url).rpc.batch("eth_chainId", []) == []


@pytest.mark.parametrize("answer", [b"[]", b'[{"id":0,"result":1}]', b'[null,{"id":"0"}]', b'{"result":[1,2]}'])
def test_a_batch_with_missing_answers_is_garbage(answer, rpc):
    chain = Chain(rpc.url)
    rpc.forged = {"eth_getBalance": answer}
    with pytest.raises(ChainUnreachable, match="it is no Ethereum RPC"):
        chain.rpc.batch("eth_getBalance", [["0x00", "latest"], ["0x01", "latest"]])


def test_an_empty_account_is_told_what_it_lacks(devnet):
    chain, account = devnet.connect(), devnet.accounts[9]
    devnet.fund(account.address, 0)
    with pytest.raises(AccountUnfunded, match=rf"{account.address} has 0.000000 ether.* send it at least"):
        transact(chain, account, account.address, b"")
    assert not chain.nonce(account.address)
