"""Runs of several rounds: their epochs, their directories, and that a stop anywhere changes nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import elsewhere, quiet, require_same_run, rows

from ndsnn.config import MethodConfig
from ndsnn.errors import ConfigError
from ndsnn.training.lottery.plan import plan_lottery
from ndsnn.training.run import train


def lottery(config, epochs, final=0.6, **settings):
    return replace(config, method=MethodConfig("lth", None, final, settings=settings), epochs=epochs)


def test_the_published_protocol():
    plan = plan_lottery(300, 0.99, {})
    assert (plan.rounds, plan.rewind_epoch, plan.epochs) == (16, 20, 300 + 16 * 280)
    # Round 1 goes on at epoch 20 of a schedule of 300.
    assert plan.place(299)[:3] == (0, 299, 300)
    assert plan.place(300)[:3] == (1, 20, 300)
    assert plan.place(300 + 280)[:3] == (2, 20, 300)


def test_a_budget_holds_all_rounds():
    plan = plan_lottery(300, 0.99, {"budgeted": True, "rewind_epoch": 5})
    # 17 rounds of ⌊295/17⌋ = 17 epochs beyond epoch 5, and the 6 that are left over in the last.
    assert (plan.rounds, plan.epochs) == (16, 300)
    assert plan.end(0) == 22
    assert plan.end(16) - plan.begin(16) == 17 + 6
    small = plan_lottery(6, 0.99, {"budgeted": True, "rewind_epoch": 1})
    # Rounds of 25 % do not fit: 4 prunings of 1 − 0.01^(1/4), an epoch each, after 2 epochs.
    assert (small.rounds, small.epochs) == (4, 6)
    assert small.prune_fraction == pytest.approx(0.683772, abs=1e-6)


@pytest.mark.parametrize(
    "settings", [{"rewind_epoch": 3}, {"rewind_epoch": -1}, {"budgeted": "yes"}, {"nonsense": 1}, {"rounds": 0}]
)
def test_settings_are_checked_before_anything_is_written(tiny, settings):
    config = lottery(tiny, 3, **settings)
    with pytest.raises(ConfigError):
        train(config, quiet())
    assert not Path(config.output).exists()


def test_the_full_protocol(tiny):
    config = lottery(tiny, 3, rounds=2, rewind_epoch=1)
    summary = train(config, quiet())
    found = rows(Path(config.output), "metrics.jsonl")
    assert [row["epoch"] for row in found] == list(range(1, 8))
    assert [row["round"] for row in found] == [0, 0, 0, 1, 1, 2, 2]
    assert [row["round_epoch"] for row in found] == [1, 2, 3, 2, 3, 2, 3]
    assert [row["lr"] for row in found][3:] == [row["lr"] for row in found][1:3] * 2
    weights = sum(layer["weights"] for layer in summary["layers"])
    assert summary["final_sparsity"] == 1 - round(weights * 0.4) / weights
    assert [entry["round"] for entry in summary["rounds"]] == [0, 1, 2]
    assert [entry["epochs"] for entry in summary["rounds"]] == [3, 2, 2]
    assert summary["rounds"][-1]["test_accuracy"] == summary["test_accuracy"]
    operations = sum(row["synaptic_operations"] for row in found)
    assert summary["costs"]["training_synaptic_operations"] == operations
    for number in range(3):
        part = json.loads((Path(config.output) / "rounds" / f"{number:02}" / "summary.json").read_text())
        assert part["test_accuracy"] == summary["rounds"][number]["test_accuracy"]


def test_the_cost_is_relative_to_one_dense_training(tiny):
    dense = replace(tiny, method=MethodConfig("dense"), epochs=3, output=str(Path(tiny.output).with_name("dense")))
    train(dense, quiet())
    rates = [row["firing_rate"] for row in rows(Path(dense.output), "metrics.jsonl")]
    config = replace(lottery(tiny, 3, rounds=2, rewind_epoch=1), dense_run=dense.output)
    summary = train(config, quiet())
    found = rows(Path(config.output), "metrics.jsonl")
    costs = [row["firing_rate"] * (1 - row["mean_sparsity"]) / rates[row["round_epoch"] - 1] for row in found]
    assert [row["relative_cost"] for row in found] == pytest.approx(costs)
    assert summary["costs"]["relative_training_cost"] == pytest.approx(sum(costs) / 3)


# An epoch has 11 steps; rounds begin after epochs 2, 3, 4 and 5.
def test_a_stop_inside_and_between_rounds_changes_nothing(tiny_either, run_until):
    config = lottery(tiny_either, 6, final=0.9, budgeted=True, rewind_epoch=1)
    run_until(config)
    stopped = elsewhere(config, "stopped")
    for number, step in enumerate((5, 11, 22, 27, 33, 50)):
        run_until(replace(stopped, resume=number > 0), step)
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))
    for part in sorted((Path(config.output) / "rounds").iterdir()):
        require_same_run(part, Path(stopped.output) / "rounds" / part.name)
