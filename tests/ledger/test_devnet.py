import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account

from ledger import Devnet, DevnetError, DevnetOptions, Ledger, connect, deploy
from ledger.engines import MEMORY, find_anvil

pytestmark = pytest.mark.real


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("engine", ["anvil", "hardhat"])
def test_a_devnet_answers_on_a_free_port_and_is_gone_after_its_with_block(engine):
    with Devnet(DevnetOptions(engine, chain_id=4711, block_time=0)) as devnet:
        chain = connect(devnet.url)
        assert chain.chain_id() == devnet.chain_id == 4711
        assert [chain.balance(one.address) for one in devnet.accounts] == [10**22] * 10
    assert gone(devnet.pid)


@pytest.mark.parametrize("engine", ["anvil", "hardhat"])
def test_an_account_without_ether_can_deploy_where_gas_is_free(engine):
    with Devnet(DevnetOptions(engine, block_time=0.1, free_gas=True)) as devnet:
        chain, account = devnet.connect(), Account.create()
        Ledger(chain, deploy(chain, account))
        assert chain.balance(account.address) == 0
        devnet.fund(account.address, 2.5)
        assert chain.balance(account.address) == 25 * 10**17


def test_a_chain_goes_on_from_a_saved_state_with_its_logs(tmp_path):
    with Devnet(DevnetOptions(block_time=0)) as devnet:
        chain, account = devnet.connect(), devnet.accounts[0]
        ledger = Ledger(chain, deploy(chain, account))
        session_id = ledger.create_session(account, bytes(range(32)))
        devnet.mine(5)
        devnet.save(tmp_path / "state")
        height = chain.block_number()
    with Devnet(DevnetOptions(block_time=0, load=tmp_path / "state")) as devnet:
        ledger = Ledger(devnet.connect(), ledger.address)
        assert ledger.session(session_id).creator == account.address
        assert ledger.chain.block_number() == height
        assert len(ledger.chain.rpc.call("eth_getLogs", {"address": ledger.address, "fromBlock": "0x0"})) == 1


def test_a_devnet_for_several_machines_listens_on_all_addresses():
    with Devnet(DevnetOptions(host="0.0.0.0")) as devnet:
        assert devnet.url.startswith("http://127.0.0.1:")
        assert devnet.connect().chain_id() == 31337


@pytest.mark.parametrize("engine", ["anvil", "hardhat"])
def test_a_port_in_use_is_named(engine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DevnetError, match=rf"{engine} did not start on 127.0.0.1, port {port}.*ddress.*in use"):
            Devnet(DevnetOptions(engine, port)).start()


def test_an_unknown_engine_is_named():
    with pytest.raises(DevnetError, match="'ganache' is no devnet engine: use anvil or hardhat"):
        Devnet(DevnetOptions("ganache")).start()


def test_without_anvil_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("ledger.engines._module_folders", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevnetError, match="install Foundry"):
        find_anvil()


def test_anvil_on_path_is_found_where_npm_brought_none(monkeypatch, tmp_path):
    real = find_anvil()
    monkeypatch.setattr("ledger.engines._module_folders", list)
    (tmp_path / "anvil").symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_anvil() == str(tmp_path / "anvil")


def test_anvils_memory_is_capped():
    with Devnet() as devnet:
        limits = Path(f"/proc/{devnet.pid}/limits").read_text()
        (line,) = [one for one in limits.splitlines() if one.startswith("Max address space")]
        assert line.split()[3:5] == [str(MEMORY), str(MEMORY)]


CHILD = """
import os, time
from ledger import Devnet, DevnetOptions
devnet = Devnet(DevnetOptions(ENGINE)).start()
print(devnet.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("engine", ["anvil", "hardhat"])
def test_a_devnet_ends_when_its_parent_is_killed(engine):
    code = CHILD.replace("ENGINE", repr(engine))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    import select

    assert select.select([watch], [], [], 10)[0]  # a pidfd is readable when its process has ended
    os.close(watch)
