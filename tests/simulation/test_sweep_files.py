from pathlib import Path

import pytest

from node.errors import ConfigError
from node.simulation.settings import SimulationSettings
from node.simulation.sweep_files import FILE_LIMIT, _Choices, parse_sweep, read_sweep


def parsed(text, **options):
    return parse_sweep(text.encode(), "sweep.toml", **options)


def test_a_grid_is_every_combination_over_the_base():
    runs = parsed('[base]\nmembers = 6\n[grid]\nsharing = ["fixed", "learned"]\nseed = [1, 2, 3]\n')
    assert len(runs) == 6
    assert runs[0] == SimulationSettings(members=6, sharing="fixed", seed=1)
    assert runs[-1] == SimulationSettings(members=6, sharing="learned", seed=3)


def test_explicit_runs_override_the_base_and_each_goes_through_the_grid():
    text = (
        "[base]\nrounds = 5\n[grid]\nseed = [1, 2]\n"
        '[[runs]]\nsplit = "iid"\n[[runs]]\nsplit = "skewed:0.5"\nattack = "ipm"\nattackers = 2\nrounds = 6\n'
    )
    assert [(run.split, run.rounds, run.seed) for run in parsed(text)] == [
        ("iid", 5, 1), ("iid", 5, 2), ("skewed:0.5", 6, 1), ("skewed:0.5", 6, 2),
    ]  # fmt: skip


def test_a_run_that_is_described_twice_runs_once():
    assert len(parsed("[grid]\nseed = [1, 1]\n[[runs]]\n[[runs]]\n")) == 1


def test_every_setting_but_the_place_of_the_data_can_be_swept():
    assert set(_Choices.model_fields) == set(SimulationSettings.__slots__) - {"data_dir"}
    assert _Choices().model_dump() == {
        name: getattr(SimulationSettings(), name) for name in SimulationSettings.__slots__ if name != "data_dir"
    }
    assert parsed("", data_dir=Path("data"))[0].data_dir == Path("data")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base]\nmember = 3", "no setting is called 'member': did you mean members"),
        ('[base]\nmembers = "three"', "members: .*'three'"),
        ("[base]\nmembers = 0", "members: .*0"),
        ("[grid]\nseed = 7", "grid.seed: .*list.*7"),
        ("[grid]\nseed = []", "grid.seed"),
        ("[base]\nseed = 1\n[grid]\nseed = [1]", r"\[base\]: 'seed' is in \[grid\] too"),
        ("[grid]\nseed = [1]\n[[runs]]\nseed = 2", r"run 1: 'seed' is in \[grid\] too"),
        ('[grid]\nsplit = ["iid", "idd"]', "unknown split 'idd'"),
        ('[base]\ncodec = "zip"', "unknown codec 'zip'"),
        ('[base]\ntopology = "star"', "unknown topology 'star'"),
        ('[base]\ntopology = "regular:5"\n[grid]\nmembers = [6, 5]', "'regular:5' of 5 members can't be"),
        ('[base]\nsharing = "magic"', "unknown sharing 'magic'"),
        ('[base]\ntask = "mnist-huge"', "unknown task 'mnist-huge'"),
        ('[base]\nattack = "magic"', "unknown attack 'magic'"),
        ('[base]\nattack = "ipm"\nattackers = 4', "4 attackers of 4 members"),
        ("[base]\nattackers = 1", "name an attack"),
        ('[base]\nattack = "ipm"', "attack without attackers: say how many members attack"),
        ("[base]\nattackers_absent = true", "attackers_absent without attackers"),
        ("runs = []", "0 runs"),
        ("[grid]\n" + "\n".join(f"{name} = {list(range(1, 51))}" for name in ("seed", "members", "rounds")), "125000"),
        ("[gird]\nseed = [1]", r"no table is called 'gird': did you mean grid\?"),
        ("[[run]]", r"no table is called 'run': did you mean runs\?"),
        ("[base]\nseed = " + "9" * 5000, "not valid TOML .*digits"),
        ("[base]\nseed = 0x" + "f" * 5000, "seed: .*thousands of digits"),
        ("[base", "not valid TOML"),
        ("#" * (FILE_LIMIT + 1), "cut it into several"),
    ],
)
def test_a_file_that_can_not_be_is_a_clear_error(text, message):
    with pytest.raises(ConfigError, match=rf"sweep\.toml.*{message}"):
        parsed(text)


def test_a_folder_of_data_that_is_not_there_is_a_clear_error(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"no folder .*nowhere: check --data-dir"):
        read_sweep(file, tmp_path / "nowhere")


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml can't be read"):
        read_sweep(tmp_path / "none.toml")
