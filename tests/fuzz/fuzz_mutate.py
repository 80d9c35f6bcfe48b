"""Changing bytes at random, where no fuzzer is installed that goes by coverage."""

from collections.abc import Iterator, Sequence

import numpy as np

_WORDS = (
    *(b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\xff" * 8, b"\x00" * 8),
    *(
        b"-1",
        b"0",
        b"1e999",
        b"null",
        b"NaN",
        b"[]",
        b"{}",
        b'""',
        b"[[[[",
        b"../../",
        b"/etc/passwd",
        b"\n",
        b"\\",
    ),
    *(b"!!python/name:os.system", b"&a [*a]", b"*a", b"<<: ", b"9999999999999999999", b"class_path: os.system"),
)
MOST_BYTES = 1 << 16


def mutants(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` inputs, each made of a seed by one to eight changes; the same for the same arguments."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(seeds[int(random.integers(len(seeds)))])
        for _ in range(int(random.integers(1, 9))):
            _change(data, seeds, random)
        yield bytes(data[:MOST_BYTES])


def _change(data: bytearray, seeds: Sequence[bytes], random: np.random.Generator) -> None:
    place = int(random.integers(len(data) + 1))
    length = int(random.integers(1, 1 + min(64, max(1, len(data)))))
    kind = int(random.integers(8))
    if kind == 0 and place < len(data):
        data[place] ^= 1 << int(random.integers(8))
    elif kind == 1 and place < len(data):
        data[place] = int(random.integers(256))
    elif kind == 2:
        del data[place : place + length]
    elif kind == 3:
        data[place:place] = random.bytes(length)
    elif kind == 4:
        word = _WORDS[int(random.integers(len(_WORDS)))]
        data[place : place + len(word) * int(random.integers(2))] = word
    elif kind == 5:
        data[place:place] = data[place : place + length]
    elif kind == 6:
        other = seeds[int(random.integers(len(seeds)))]
        begin = int(random.integers(len(other) + 1))
        data[place : place + length] = other[begin : begin + length]
    else:
        del data[place:]
