"""Several real processes train one network (gloo on this machine)."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rank_checks
from rank_processes import free_port, run_checks, start
from tiny_runs import quiet, require_same_run

from ndsnn.config_parser import config_to_yaml
from ndsnn.training.run import train

COMMON = ("trainings", "seeds", "gradients", "drifted")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found."""
    return run_checks(2, tmp_path_factory.mktemp("ranks"), *COMMON, "stdp", "traffic", "spoilt", "ddp", "sharded")


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """What each of 2 and of 4 processes found."""
    if request.param == 2:
        return request.getfixturevalue("pair")
    return run_checks(request.param, tmp_path_factory.mktemp("ranks"), *COMMON)


@pytest.fixture(scope="module")
def alone():
    """The same trainings in this process."""
    return rank_checks.trainings()


@pytest.mark.parametrize("form", ["masked", "compressed"])
@pytest.mark.parametrize("method", ["rigl", "ndsnn"])
def test_parts_of_a_batch_are_the_batch(found, alone, form, method):
    """Uneven batches, and one of fewer samples than ranks; topologies grow and die three times."""
    expected = alone[f"{method}-{form}"]
    for one in found:
        got = one["trainings"][f"{method}-{form}"]
        assert got.keys() == expected.keys()
        for key in expected:
            if key == "loss":
                continue
            np.testing.assert_allclose(got[key], expected[key], rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_norms_of_their_own_parts_end_alike_on_all_ranks(found, alone, form):
    first = found[0]["trainings"][f"set-{form}"]
    for one in found[1:]:
        other = one["trainings"][f"set-{form}"]
        assert {k: v for k, v in other.items() if k != "loss"} == {k: v for k, v in first.items() if k != "loss"}
    means = [key for key in first if key.endswith("running_mean")]
    assert means
    assert all(first[key] != alone[f"set-{form}"][key] for key in means)


@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_ranks_of_different_seeds_and_data_have_one_topology(found, form):
    require_one_topology([one["seeds"][form] for one in found])


def test_spike_correlations_are_those_of_all_ranks(pair):
    require_one_topology([one["stdp"] for one in pair])


def require_one_topology(seen):
    assert len({one["before"] for one in seen}) == len(seen)
    assert {one["shared"] for one in seen} == {seen[0]["before"]}
    assert len({one["after"] for one in seen}) == 1
    assert seen[0]["after"] != seen[0]["shared"]


@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_growth_goes_by_the_mean_gradient_not_by_the_mean_of_its_size(found, form):
    told_apart = 0
    for name, grown in found[0]["seeds"][form]["grown"].items():
        gradients = np.array([one["gradients"][name]["gradient"] for one in found])
        inactive = np.flatnonzero(~np.array(found[0]["gradients"][name]["mask"]))

        assert grown == best(np.abs(gradients.mean(0)), inactive, len(grown)), name
        told_apart += grown != best(np.abs(gradients).mean(0), inactive, len(grown))
    assert told_apart


def best(score, places, count):
    return sorted(places[np.argsort(-score[places], kind="stable")[:count]].tolist())


def test_a_method_attached_under_torchs_own_data_parallelism(pair):
    """DistributedDataParallel takes the mean of the alive gradients, the method that of the dense ones."""
    first, second = (one["ddp"] for one in pair)
    assert first == second
    assert first["at_end"]
    assert first["before"] != first["after"]


def test_fully_sharded_weights_are_refused(pair):
    for one in pair:
        assert one["sharded"].startswith("SparsityError: the weight of layer")
        assert "is sharded over processes" in one["sharded"]


def test_only_alive_weights_are_sent(pair):
    for one in pair:
        for sparsity in ("0.5", "0.9"):
            calls, sent, numbers = one["traffic"][sparsity]
            assert (calls, sent) == (1, 4 * numbers)
        others = {n - one["traffic"][f"alive {s}"] for s in ("0.5", "0.9") for n in [one["traffic"][s][2]]}
        assert len(others) == 1  # the parameters of the norms
    assert pair[0]["traffic"]["alive 0.5"] == pytest.approx(5 * pair[0]["traffic"]["alive 0.9"], rel=0.01)


def test_a_rank_that_drifts_is_noticed(found):
    for one in found:
        assert one["drifted"].startswith("RankError")
        assert f"of rank {len(found) - 1} differ" in one["drifted"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_a_value_that_is_not_finite_on_one_rank_stops_all(pair, what, engine):
    if f"{what}-{engine}" not in pair[0]["spoilt"]:
        pytest.skip("no native engine")
    for one in pair:
        seen = one["spoilt"][f"{what}-{engine}"]
        assert seen["error"].startswith("NonFiniteError")
        assert "at step 4" in seen["error"]
        assert seen["unchanged"]
        assert seen["steps"] == [3, 3]
    if what == "loss":
        assert "the loss of rank 1 is inf" in pair[0]["spoilt"][f"loss-{engine}"]["error"]


def together(count, config, *arguments, each=None):
    """Begin `ndsnn train` in `count` processes."""
    recipe = Path(config.output).with_suffix(".yaml")
    recipe.write_text(config_to_yaml(replace(config, output=None)))
    command = ["-m", "ndsnn", "train", "--config", str(recipe), "--output", config.output, *arguments]
    return start(count, *command, each=each)


def ended(processes, seconds=120):
    """Exit codes, output and errors."""
    deadline = time.monotonic() + seconds
    texts = [process.communicate(timeout=max(1, deadline - time.monotonic())) for process in processes]
    return [process.returncode for process in processes], *zip(*texts, strict=True)


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def longer(tmp_path):
    """A run of 40 epochs that saves after every step."""
    return rank_checks.run_config(tmp_path, epochs=40, checkpoint_every=1)


def test_stopped_on_one_rank_and_resumed_by_another_number_of_ranks(longer):
    config = replace(longer, epochs=6)
    whole = replace(config, output=config.output + "-whole")
    processes = together(2, whole)
    codes, outputs, errors = ended(processes)
    assert codes == [0, 0], errors
    assert "2 processes" in outputs[0]
    assert outputs[1] == ""

    processes = together(2, config)
    wait_for(lambda: (Path(config.output) / "checkpoints" / "last.json").exists())
    processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = ended(processes)
    assert codes == [128 + signal.SIGTERM] * 2, errors
    assert "stopped by SIGTERM" in errors[0]

    codes, _, errors = ended(together(2, config, "--resume", "true"))
    assert codes == [0, 0], errors
    require_same_run(Path(whole.output), Path(config.output))


def test_a_killed_rank_ends_the_others_and_the_run_resumes_alone(longer):
    processes = together(2, longer)
    wait_for(lambda: (Path(longer.output) / "checkpoints" / "last.json").exists())
    processes[1].kill()
    begin = time.monotonic()
    codes, _, errors = ended(processes)
    assert time.monotonic() - begin < 60
    assert codes == [2, -signal.SIGKILL]
    assert "rank 0 of 2 lost the others" in errors[0]
    summary = train(replace(longer, resume=True, epochs=40), quiet())
    assert summary["ranks"]["number"] == 1
    assert summary["epochs"] == 40


def test_other_settings_on_one_rank_are_refused(longer):
    codes, _, errors = ended(together(2, longer, each={1: ["--lr", "0.05"]}))
    assert codes == [2, 2]
    assert "rank 1 was started with lr = 0.05, rank 0 with 0.1" in errors[1]
    assert not Path(longer.output).exists()


def test_torchrun(longer):
    config = replace(longer, epochs=1, batch_size=256)
    recipe = Path(config.output).with_suffix(".yaml")
    recipe.write_text(config_to_yaml(replace(config, output=None)))
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command += ["-m", "ndsnn", "train", "--config", str(recipe), "--output", config.output, "--json"]
    process = start(1, *command)[0]
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count('"test_accuracy"') == 1
    assert os.path.exists(f"{config.output}/summary.json")
