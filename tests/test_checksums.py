"""Files that carry their own checksum."""

import hashlib

import pytest

from ndsnn.checksums import BLANK, seal_holds, sealed


def test_the_sum_is_that_of_the_file_with_zeros_in_its_place():
    plain = sealed(lambda digits: f"a {digits} b".encode())
    digits = hashlib.sha256(b"a " + b"0" * 64 + b" b").hexdigest()
    assert plain == b"a " + digits.encode() + b" b"
    assert seal_holds(plain, digits)


def test_every_flipped_bit_and_every_truncation_is_noticed():
    whole = sealed(lambda digits: b"some data " * 5 + digits.encode() + bytes(range(40)))
    digits = whole[50:114].decode()
    assert seal_holds(whole, digits)
    for position in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            # What stands in the place of the digits is what a reader would find there.
            read = bytes(changed[50:114]).decode("latin-1")
            assert not seal_holds(bytes(changed), read)
            assert not seal_holds(bytes(changed), digits)
        assert not seal_holds(whole[:position], digits)


def test_sixty_four_zeros_elsewhere_do_no_harm():
    whole = sealed(lambda digits: f"{BLANK} {digits}".encode())
    assert seal_holds(whole, whole[65:].decode())


@pytest.mark.parametrize("digits", [None, 7, "", "ab", "é" * 64, ["0" * 64], BLANK])
def test_what_is_no_checksum(digits):
    assert not seal_holds(b"x" * 100, digits)
