"""Whatever is wrong gets one line that names the value and the cure, and exit status 2."""

import errno
import json
import os
import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ledger import CallRefused, Ledger
from node.cli.app import cli, main
from node.home import lock_home
from tests.cli.test_docs import ALL
from tests.nodes import PASSPHRASE, TASK, make_home, make_session

pytestmark = pytest.mark.real


@pytest.fixture
def run():
    def invoke(*arguments, **environment):
        env = {"FL_NODE_PASSPHRASE": PASSPHRASE, **environment}
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=env)

    return invoke


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "alice")


@pytest.fixture
def session_file(tmp_path, home, chain):
    path = tmp_path / "session.toml"
    make_session(home, chain, path)
    return path


@pytest.fixture
def start(run, home, session_file):
    def invoke(*arguments, **environment):
        fixed = ("start", "--session", session_file, "--home", home.path, "--task", f"{TASK}:task")
        return run(*fixed, *arguments, **environment)

    return invoke


def says(result, *words):
    """One line on standard error with all of these words, and exit status 2."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("fl-node: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0]
    assert "Traceback" not in result.output
    return True


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_rpc_that_does_not_answer(start):
    url = f"http://127.0.0.1:{free_port()}"
    assert says(start("--rpc", url), url)


def test_an_rpc_that_is_no_url(start):
    assert says(start("--rpc", "not a url"), "not a url")


def test_an_rpc_of_another_chain(run, tmp_path, home, session_file, chain):
    text = session_file.read_text().replace("chain_id = 31337", "chain_id = 5")
    other = tmp_path / "other.toml"
    other.write_text(text)
    assert says(run("start", "--session", other, "--home", home.path), "31337", "5")


def test_an_address_without_a_contract(run, tmp_path, home, session_file):
    lines = [
        'address = "0x00000000000000000000000000000000000000aa"' if line.startswith("address") else line
        for line in session_file.read_text().splitlines()
    ]
    other = tmp_path / "other.toml"
    other.write_text("\n".join(lines))
    result = run("start", "--session", other, "--home", home.path)
    assert says(result, "no contract", "0x00000000000000000000000000000000000000AA")


def test_a_session_file_that_was_altered(run, session_file, home):
    session_file.write_text(session_file.read_text().replace("rounds = 4", "rounds = 5"))
    assert says(run("start", "--session", session_file, "--home", home.path), session_file, "altered")


def test_a_session_file_that_was_cut_off(run, session_file, home):
    session_file.write_bytes(session_file.read_bytes()[:-200])
    assert says(run("start", "--session", session_file, "--home", home.path), session_file, "sk its creator")


def test_a_session_file_with_a_wrong_value(run, session_file, home):
    session_file.write_text(session_file.read_text().replace("rounds = 4", "rounds = -4"))
    assert says(run("start", "--session", session_file, "--home", home.path), "rounds", "-4")


def test_a_session_file_that_is_not_there(run, tmp_path, home):
    assert says(run("start", "--session", tmp_path / "none.toml", "--home", home.path), "none.toml")


@pytest.mark.parametrize("address", ["nonsense", "/ip4/999.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001"])
def test_a_peer_address_that_is_malformed(start, address):
    assert says(start("--peers", address), address)


def test_an_address_to_listen_on_that_is_malformed(start):
    assert says(start("--listen", "/ip4/127.0.0.1/udp"), "/ip4/127.0.0.1/udp")


def test_hole_punching_without_a_relay(start):
    assert says(start("--hole-punching"), "--hole-punching", "--relay ADDRESS")


def test_a_port_that_is_in_use_costs_no_membership(start, run, session_file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert says(start("--listen", f"/ip4/127.0.0.1/tcp/{port}"), port)
    verified = run("session", "verify", session_file, "--json")
    assert json.loads(verified.stdout.strip().splitlines()[-1])["members"] == 0


def test_a_wrong_passphrase(start):
    assert says(start(FL_NODE_PASSPHRASE="wrong"), "keystore.json", "passphrase")


def test_a_passphrase_file_that_is_not_there(start, tmp_path):
    assert says(start("--passphrase-file", tmp_path / "none"), "none")


def test_an_account_without_funds(run, home, tmp_path):
    from ledger import Devnet

    with Devnet() as chain:
        result = run(
            "session", "create", "--task", "mnist-softmax", "--rpc", chain.url, "--home", home.path, "--out",
            tmp_path / "s.toml",
        )  # fmt: skip
    assert says(result, "ether")
    assert not (tmp_path / "s.toml").exists()


def test_a_data_set_that_is_missing(run, home, chain, tmp_path, monkeypatch):
    path = tmp_path / "mnist.toml"
    make_session(home, chain, path, task="mnist-softmax")
    monkeypatch.chdir(tmp_path)
    result = run("start", "--session", path, "--home", home.path, "--data-dir", tmp_path / "empty")
    assert says(result, "empty")


def test_a_data_set_that_is_corrupt(run, home, chain, tmp_path):
    path = tmp_path / "mnist.toml"
    make_session(home, chain, path, task="mnist-softmax")
    for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        kind = "idx3" if "images" in name else "idx1"
        (tmp_path / f"{name}-{kind}-ubyte").write_bytes(b"rubbish")
    result = run("start", "--session", path, "--home", home.path, "--data-dir", tmp_path)
    assert says(result, str(tmp_path))


@pytest.mark.parametrize(
    ("content", "word"),
    [("import nothing_of_that_name", "nothing_of_that_name"), ("x =", "task.py"), ("task = 3", "int"), ("", "task")],
)
def test_a_task_file_that_fails(run, home, chain, tmp_path, content, word):
    (tmp_path / "task.py").write_text(content)
    result = run(
        "session", "create", "--task", f"{tmp_path}/task.py:task", "--rpc", chain.url, "--home", home.path, "--out",
        tmp_path / "s.toml",
    )  # fmt: skip
    assert says(result, word)


def test_another_task_than_the_session_s(run, home, session_file):
    assert says(run("start", "--session", session_file, "--home", home.path), "pipe-flow", "--task")
    result = run("start", "--session", session_file, "--home", home.path, "--task", "mnist-softmax")
    assert says(result, "pipe-flow", "mnist-softmax")


def test_misbehaving_in_a_session_that_is_no_experiment(start):
    assert says(start("--misbehave", "sign_flip"), "sign_flip", "no experiment")


@pytest.mark.parametrize(
    ("attack", "words"), [("magic", ("unknown attack 'magic'", "sign_flip")), ("label_flip", ("classes", "pipe-flow"))]
)
def test_an_attack_that_can_not_be(run, home, chain, tmp_path, attack, words):
    path = tmp_path / "experiment.toml"
    make_session(home, chain, path, experiment=True)
    started = run("start", "--session", path, "--home", home.path, "--task", f"{TASK}:task", "--misbehave", attack)
    assert says(started, *words)


def test_a_coordinator_that_would_misbehave(run, home, chain, tmp_path):
    path = tmp_path / "experiment.toml"
    make_session(home, chain, path, experiment=True, topology="coordinated")
    started = run("start", "--session", path, "--home", home.path, "--task", f"{TASK}:task", "--misbehave", "ipm")
    assert says(started, "ipm", "misbehave as a worker")


def test_a_home_of_another_session(start, run, home, chain, tmp_path):
    other = tmp_path / "other.toml"
    make_session(home, chain, other)
    assert says(start("--quorum-timeout", "0.1"), "fewer than 3")
    result = run("start", "--session", other, "--home", home.path, "--task", f"{TASK}:task")
    assert says(result, home.path, "another --home")


def test_a_home_that_is_in_use(start, home):
    with lock_home(home):
        assert says(start(), home.path, "in use")


def test_a_home_that_is_none(run, tmp_path, session_file):
    assert says(run("start", "--session", session_file, "--home", tmp_path / "none"), "fl-node init")
    assert says(run("status", "--home", tmp_path / "none"), "fl-node init")


def test_a_home_that_exists_is_never_made_again(run, home):
    assert says(run("init", "--home", home.path), home.path, "another --home")


def test_with_json_an_error_is_an_object_on_standard_output_and_nothing_else(run, tmp_path):
    result = run("status", "--json", "--home", tmp_path / "none")
    assert result.exit_code == 2
    assert "fl-node init" in json.loads(result.stdout)["error"]
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [("status", "--nonsense"), ("nonsense",)])
def test_with_json_a_wrong_command_line_is_an_object_too(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fl-node", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "nonsense" in json.loads(told.out)["error"]
    assert told.err == ""


@pytest.mark.parametrize(("flags", "told"), [([], ""), (["--json"], '{"error": "interrupted"}\n')])
def test_who_is_interrupted_ends_as_a_shell_expects_with_json_too(flags, told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fl-node", "status", *flags])
    monkeypatch.setattr("node.cli.homes.open_place", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().out == told


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_session_file_is_never_overwritten(run, home, session_file, chain):
    result = run(
        "session", "create", "--task", "mnist-softmax", "--rpc", chain.url, "--home", home.path, "--out", session_file
    )
    assert says(result, session_file)


@pytest.mark.parametrize("command", ["init", "passphrase", "status", "stop", "tracker", "snapshot list"])
def test_a_home_with_a_name_that_no_disk_takes(run, command):
    assert says(run(*command.split(), "--home", "h" * 300), "hhh", "File name too long", "--home")


@pytest.mark.parametrize("given", [("--task", "t" * 300 + ".py:task"), ("--data-dir", "d" * 300)])
def test_files_of_a_run_with_a_name_that_no_disk_takes(run, given):
    assert says(run("simulate", *given, "--rounds", 1), given[1][:200])


def test_a_home_that_cannot_be_locked(run, home):
    (home.path / "node.lock").mkdir()
    assert says(run("passphrase", "--home", home.path), "node.lock", "Is a directory")


def test_a_home_that_is_not_ours(run, home, monkeypatch):
    """As root, who runs the tests, reads everything, the refusal is the system's only in this stand-in."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert says(run("status", "--home", home.path), home.path, "Permission denied")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_session_file_with_a_name_that_no_disk_takes(run, command):
    assert says(run("session", command, "s" * 300), "sss", "File name too long")


@pytest.mark.parametrize("out", ["o" * 300, "none/s.toml", "loop", "file/s.toml"])
def test_a_session_file_that_cannot_be_written_is_found_before_there_is_a_session(run, home, tmp_path, out):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    nobody = "http://127.0.0.1:1"
    result = run(
        "session", "create", "--task", "mnist-softmax", "--rpc", nobody, "--home", home.path, "--out", tmp_path / out
    )
    assert says(result, out, "--out")


def test_a_session_file_that_the_disk_refuses_makes_no_session(run, home, chain, tmp_path, monkeypatch):
    """Nothing is on the ledger before the file's bytes are on the disk, and no half of it stays."""
    out, asked = tmp_path / "s.toml", []

    monkeypatch.setattr(Ledger, "create_session", lambda *_, **__: asked.append(True))
    fsync = os.fsync

    def full(descriptor):
        if ".s.toml." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = run("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path, "--out", out)
    assert says(result, "s.toml", "No space left on device")
    assert not asked
    assert [path.name for path in tmp_path.iterdir()] == ["alice"]


def test_a_session_that_the_ledger_refuses_leaves_no_file(run, home, chain, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise CallRefused("the contract refused")

    monkeypatch.setattr(Ledger, "create_session", refuse)
    out = tmp_path / "s.toml"
    result = run("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path, "--out", out)
    assert says(result, "the contract refused")
    assert [path.name for path in tmp_path.iterdir()] == ["alice"]


def test_settings_that_no_command_has(run, tmp_path):
    settings = Path(tmp_path / "settings.toml")
    settings.write_text('hoem = "a"\n')
    result = run("--config", settings, "status")
    assert result.exit_code == 2
    assert "hoem" in result.stderr


@pytest.mark.parametrize(("codec", "topology"), [("topk:0.2", "coordinated"), ("float31", "gossip")])
def test_a_codec_that_a_session_cannot_use(run, home, chain, tmp_path, codec, topology):
    wishes = ("--task", "mnist-softmax", "--rpc", chain.url, "--codec", codec, "--topology", topology)
    result = run("session", "create", *wishes, "--home", home.path, "--out", tmp_path / "s.toml")
    assert says(result, codec, "float32")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rule", "krum"), ("--rule is for sessions with a coordinator", "--topology coordinated")),
        (("--maximum", 3), ("--maximum is for sessions with a coordinator",)),
        (("--no-balance",), ("--balance is for sessions with a coordinator",)),
        (("--topology", "coordinated", "--accumulate", 4), ("--accumulate is for gradients", "--update gradients")),
        (("--topology", "coordinated", "--schedule", "cosine"), ("--schedule is for gradients",)),
        (("--topology", "coordinated", "--quorum", 4, "--maximum", 3), ("--quorum 4", "--maximum 3", "lower")),
        (("--quorum", 9, "--members", 4), ("--quorum 9", "4 members", "--quorum 4 or less", "--members 9 or more")),
        (("--topology", "coordinated", "--quorum", 5), ("--quorum 5", "4 members", "--members 5 or more")),
        (("--topology", "coordinated", "--server-rate", 0.1), ("--server-rate", "fedadam", "sgd", "fedavg takes no")),
        (("--topology", "coordinated", "--proximal", 0.1), ("--proximal", "--rule fedprox", "fedavg takes no notice")),
        (
            ("--topology", "coordinated", "--rule", "median", "--faulty", 1),
            ("--faulty is for --rule clipping or krum or multi_krum or trimmed_mean", "median takes no notice"),
        ),
        (
            ("--topology", "coordinated", "--update", "gradients", "--rule", "adam", "--momentum", 0.5),
            ("--momentum", "--rule sgd", "adam takes no notice"),
        ),
        (("--topology", "coordinated", "--cohort", 3), ("--cohort is for gossip sessions", "leave it out")),
        (("--topology", "coordinated", "--objective", "common"), ("--objective is for gossip sessions",)),
        (("--split-bytes", 1000), ("--split-bytes is for served data", "--data served")),
        (("--topology", "coordinated", "--split-bytes", 1000), ("--split-bytes is for served data",)),
        (("--split", "shards:2", "--stratified"), ("--stratified", "--split shards:2", "leave one of them out")),
        (("--topology", "coordinated", "--late", "drop", "--staleness", 9), ("--staleness 9", "--late drop")),
        (
            ("--topology", "coordinated", "--rule", "trimmed_mean", "--faulty", 5),
            ("--faulty 5 of 4 members", "--faulty 1 or less", "--members 11 or more"),
        ),
        (
            ("--topology", "coordinated", "--rule", "trimmed_mean", "--faulty", 1, "--quorum", 2),
            ("--quorum 2 with --faulty 1", "--quorum 3 or more", "--faulty 0"),
        ),
        *(
            (("--topology", "coordinated", "--rule", rule, "--late", "weight"), ("--late weight", rule, "--late drop"))
            for rule in ("krum", "multi_krum", "geometric_median", "clipping", "median", "trimmed_mean")
        ),
    ],
)
def test_what_a_session_would_take_no_notice_of_is_refused(run, home, chain, tmp_path, options, words):
    create = ("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path)
    result = run(*create, "--out", tmp_path / "s.toml", *options)
    assert says(result, *words)
    assert not (tmp_path / "s.toml").exists()


COORDINATED = ("--topology", "coordinated")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*COORDINATED, "--metric", "accuracy", "--target", 0.9), ("--metric accuracy", "pipe-flow may end by loss")),
        ((*COORDINATED, "--metric", "f1", "--target", 0.9), ("--metric f1", "choose accuracy or loss")),
        ((*COORDINATED, "--metric", "loss"), ("--metric loss", "--target VALUE or --plateau ROUNDS")),
        ((*COORDINATED, "--plateau", 5), ("--plateau 5 without --metric", "--metric accuracy or loss")),
        ((*COORDINATED, "--target", 0.9), ("--target 0.9 without --metric", "--metric accuracy or loss")),
        ((*COORDINATED, "--metric", "accuracy", "--target", 98), ("--target 98 of accuracy", "a fraction", "0.98")),
        ((*COORDINATED, "--coordinator", "0x12"), ("--coordinator 0x12", "0x and 40 hexadecimal digits")),
        (
            (*COORDINATED, "--data", "served", "--maximum", 5),
            ("--maximum 5 with --data served and 4 splits", "--maximum 4 or less", "--members 5 or more"),
        ),
        ((*COORDINATED, "--data", "served", "--split", "halves"), ("unknown split 'halves'",)),
        (("--name", "two\nlines"), ("--name two", "1 to 64 letters, digits")),
        (("--contract", "0x12"), ("0x12", "40 hexadecimal digits")),
        (("--contract", "0x00000000000000000000000000000000000000aa"), ("there is no contract at",)),
    ],
)
def test_what_a_session_cannot_be_is_refused_before_anything_is_kept(run, home, chain, tmp_path, options, words):
    before = sorted(home.path.rglob("*"))
    create = ("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path)
    assert says(run(*create, "--out", tmp_path / "s.toml", *options), *words)
    assert not (tmp_path / "s.toml").exists()
    assert sorted(home.path.rglob("*")) == before


def option_types():
    """Every option of every command that takes a number."""
    for path, command in ALL.items():
        for each in command.params:
            if isinstance(each, click.Option) and isinstance(
                each.type, click.types.FloatParamType | click.types.IntParamType
            ):
                yield pytest.param(each, id=f"{' '.join(path)} {each.opts[0]}")


@pytest.mark.parametrize("option", list(option_types()))
def test_every_number_has_bounds_and_is_one(option):
    assert option.type.min is not None or option.name == "target", "so that no negative number gets in"
    for value in ("nan", "inf", "-inf", "-1e300" if option.name != "target" else "ten"):
        with pytest.raises(click.BadParameter, match=r"no finite number|not in the range|not a valid"):
            option.type.convert(value, option, None)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--round-deadline", "-1", "-1.0 is not in the range 0<x<=86400"),
        ("--round-deadline", "nan", "'nan' is no finite number"),
        ("--momentum", "1", "1.0 is not in the range 0<=x<1"),
        ("--server-rate", "nan", "'nan' is no finite number"),
        ("--target", "inf", "'inf' is no finite number"),
        ("--epsilon", "nan", "'nan' is no finite number"),
    ],
)
def test_a_number_that_can_not_be_is_named_with_what_can(run, home, tmp_path, option, value, words):
    create = ("session", "create", "--task", "x", "--rpc", "http://127.0.0.1:1", "--home", home.path)
    result = run(*create, "--out", tmp_path / "s.toml", "--topology", "coordinated", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr
    assert words in " ".join(result.stderr.split())


def test_late_updates_are_dropped_with_any_rule(run, home, chain, tmp_path):
    create = ("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path)
    result = run(*create, "--out", tmp_path / "s.toml", *COORDINATED, "--rule", "krum", "--late", "drop")
    assert result.exit_code == 0, result.output
    assert 'late = "drop"' in (tmp_path / "s.toml").read_text()


def test_a_throttle_in_a_gossip_session(start):
    assert says(start("--throttle", 2), "--throttle 2", "gossip session", "leave it out")


def test_privacy_options_need_a_budget_and_a_budget_what_it_can_protect(run, home, tmp_path, chain):
    create = ("session", "create", "--task", f"{TASK}:task", "--rpc", chain.url, "--home", home.path)
    out = ("--out", tmp_path / "private.toml")
    says(run(*create, *out, "--delta", "1e-5"), "--delta without --epsilon")
    says(run(*create, *out, "--private-learning-rate", "1"), "--private-learning-rate without --epsilon")
    coordinated = ("--topology", "coordinated", "--rule", "fedprox", "--epsilon", "1")
    says(run(*create, *out, *coordinated), "fedprox", "leave --epsilon out")
    assert run(*create, *out, "--epsilon", "1", "--delta", "0.01", "--accountant", "rdp").exit_code == 0
    start = ("start", "--session", tmp_path / "private.toml", "--home", home.path, "--task", f"{TASK}:task")
    says(run(*start), "delta 0.01", "below 1 / 400")


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda:99", ("--device cuda:99", "choose")), ("gpu", ("'gpu'", "choose auto, cpu, cuda, cuda:N or mps"))],
)
def test_a_device_that_is_not_there(start, device, words):
    assert says(start("--device", device), *words)
