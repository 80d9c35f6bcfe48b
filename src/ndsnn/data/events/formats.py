"""Readers of the official event formats, from bytes: N-MNIST's 40-bit AER, AEDAT 2.0 and AEDAT 3.1.

Each reads what the format says and checks that the file is whole; whether events are on the sensor and in the
order of time is checked by `recording.checked`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ndsnn.data.events.recording import Events
from ndsnn.errors import DataError

_OVERFLOW_ROW = 240
_OVERFLOW_TICKS = 2**13

_AEDAT2_SPECIAL = 1 << 15
_DVS128_TOP = 127

_PACKET_BYTES = 28
_POLARITY = 1
_EVENT_BYTES = 8


def read_aer40(content: bytes, where: object) -> Events:
    """Read the format of N-MNIST and N-Caltech101 (Orchard et al., 2015): 5 bytes an event, big-endian.

    Bits 39–32 x, 31–24 y, 23 polarity (1 = on), 22–0 time in microseconds. An event with y = 240 is none: it says
    that 2¹³ µs are to be added to its time and to all times behind it.

    Args:
        content: The whole file.
        where: Its name, for messages.

    Raises:
        DataError: The file ends within an event.
    """
    if len(content) % 5:
        raise DataError(f"{where} is truncated: {len(content)} bytes are no multiple of the 5 bytes of an event")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).T.astype(np.int64)
    overflow = y == _OVERFLOW_ROW
    t = ((high & 127) << 16 | middle << 8 | low) + _OVERFLOW_TICKS * np.cumsum(overflow)
    keep = ~overflow
    return Events(x[keep], y[keep], t[keep], (high >> 7)[keep])


def read_aedat2_dvs128(content: bytes, where: object) -> Events:
    """Read an AEDAT 2.0 file of a DVS128 camera, as CIFAR10-DVS (Li et al., 2017) has them.

    Behind header lines that begin with "#" stand big-endian pairs of 32-bit address and time in microseconds. Bits
    14–8 of an address are one coordinate, bits 7–1 the other, bit 0 is 0 for on; bit 15 marks a signal that is no
    pixel and is left out. Coordinates are brought upright as in SpikingJelly: x = 127 − bits 14–8,
    y = 127 − bits 7–1.

    Args:
        content: The whole file.
        where: Its name, for messages.

    Raises:
        DataError: The header is another one, the file ends within an event, or an address is no pixel of a DVS128.
    """
    body = content[_header_end(content, b"#!AER-DAT2.0", where) :]
    if len(body) % _EVENT_BYTES:
        raise DataError(f"{where} is truncated: {len(body)} bytes of events are no multiple of {_EVENT_BYTES}")
    address, t = np.frombuffer(body, ">u4").reshape(-1, 2).T.astype(np.int64)
    if len(address) and address.max() >= 2 * _AEDAT2_SPECIAL:
        raise DataError(
            f"{where} has address {address.max():#x}, which is outside the sensor of a DVS128 (128×128)"
        )
    pixel = address < _AEDAT2_SPECIAL
    address, t = address[pixel], t[pixel]
    return Events(_DVS128_TOP - (address >> 8), _DVS128_TOP - (address >> 1 & 127), t, 1 - (address & 1))


class _Packet(NamedTuple):
    """What the header of an AEDAT 3.1 packet says."""

    kind: int
    event_bytes: int
    overflow: int
    capacity: int
    events: int


def read_aedat3(content: bytes, where: object) -> Events:
    """Read the polarity events of an AEDAT 3.1 file, as DVS128 Gesture (Amir et al., 2017) has them.

    Behind a header that ends with "#!END-HEADER" stand packets, little-endian: 28 bytes (type, source, event size,
    place of the time, its overflows, capacity, events, valid events), then the events. A polarity event is 32
    bits, bit 0 valid, bit 1 on, bits 16–2 y, bits 31–17 x, and a 31-bit time, to which 2³¹ are added per overflow.
    Packets of other types, and events that are not valid, are left out.

    Args:
        content: The whole file.
        where: Its name, for messages.

    Raises:
        DataError: The header is another one, a packet contradicts itself, or the file ends within one.
    """
    position = _aedat3_body(content, where)
    address, time = [], []
    while position < len(content):
        packet = _packet(content, position, where)
        begin = position + _PACKET_BYTES
        position = begin + packet.capacity * packet.event_bytes
        if position > len(content):
            raise DataError(
                f"{where} is truncated: the packet at byte {begin - _PACKET_BYTES} ends behind the file"
            )
        if packet.kind == _POLARITY:
            pairs = np.frombuffer(content, "<u4", 2 * packet.events, begin).reshape(-1, 2).astype(np.int64)
            valid = pairs[:, 0] & 1 == 1
            address.append(pairs[valid, 0])
            time.append(pairs[valid, 1] + (packet.overflow << 31))
    joined, t = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (address, time))
    return Events(joined >> 17 & 0x7FFF, joined >> 2 & 0x7FFF, t, joined >> 1 & 1)


def _packet(content: bytes, position: int, where: object) -> _Packet:
    head = content[position : position + _PACKET_BYTES]
    if len(head) < _PACKET_BYTES:
        raise DataError(f"{where} is truncated: it ends within the packet header at byte {position}")
    kind = int.from_bytes(head[:2], "little")
    numbers = np.frombuffer(head, "<i4", 6, 4)
    packet = _Packet(kind, *(int(numbers[i]) for i in (0, 2, 3, 4)))
    wrong_size = packet.event_bytes < 1 or (kind == _POLARITY and packet.event_bytes != _EVENT_BYTES)
    if wrong_size or packet.overflow < 0 or not 0 <= packet.events <= packet.capacity:
        raise DataError(
            f"{where} is corrupt: the packet at byte {position} has type {kind}, {packet.event_bytes} bytes "
            f"an event, {packet.overflow} overflows, capacity {packet.capacity} and {packet.events} events"
        )
    return packet


def _header_end(content: bytes, first_line: bytes, where: object) -> int:
    """Return where the lines that begin with "#" end."""
    if not content.startswith(first_line):
        raise DataError(f"{where} does not begin with {first_line.decode()}: it is {content[:16]!r} …")
    found = re.compile(rb"(?:#[^\n]*\n)*").match(content)
    assert found is not None
    return found.end()


def _aedat3_body(content: bytes, where: object) -> int:
    """Return where the packets begin."""
    _header_end(content, b"#!AER-DAT3.", where)
    found = re.compile(rb"(?:#[^\n]*\n)*?#!END-HEADER\r?\n").match(content)
    if found is None:
        raise DataError(f"{where} is truncated: its header does not end with #!END-HEADER")
    return found.end()
