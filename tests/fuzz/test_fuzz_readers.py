"""Readers of files, on what is kept of the fuzzing and on changes of good files; `make fuzz` does more."""

import numpy as np
import pytest
from fuzz_mutate import mutants
from fuzz_readers import TARGETS
from fuzz_seeds import kept, seeds

COUNT = 150


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name):
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files(name):
    for number, data in enumerate(mutants(seeds(name), COUNT, seed=1)):
        try:
            TARGETS[name](data)
        except BaseException as error:
            raise AssertionError(f"mutant {number} of {name}: {error!r}; input {data!r}") from error


def test_what_is_kept_has_a_target():
    from fuzz_seeds import CORPUS

    assert {path.name for path in CORPUS.iterdir()} <= {*TARGETS, "native"}
    assert all(path.stat().st_size < 20_000 for name in TARGETS for path in kept(name))


def test_the_mutants_of_a_seed_are_the_same_and_differ_from_it():
    first, again = (list(mutants([b"abcdef" * 9], 50, seed=3)) for _ in range(2))
    assert first == again
    assert len(set(first)) > 40
    assert np.mean([len(data) for data in first]) > 10


def test_a_reader_that_raises_anything_else_is_noticed():
    from fuzz_readers import allowed

    with pytest.raises(KeyError):
        allowed(lambda data: {}[data])(b"x")
