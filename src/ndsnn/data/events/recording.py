"""The events of one recording, from any array that tonic or a reader of ours makes, checked against the sensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ndsnn.errors import ConfigError, DataError

ORDER = "xytp"
"""Columns of a plain array [E, 4] unless told otherwise."""


class Sensor(NamedTuple):
    """Size of what has recorded, in tonic's order.

    Attributes:
        width: Pixels in x, or units of a cochlea.
        height: Pixels in y; 1 for a cochlea.
        polarities: 2 (off, on), or 1.
    """

    width: int
    height: int
    polarities: int


class Events(NamedTuple):
    """Events in the order of time, each array int64 [E].

    Attributes:
        x: Column.
        y: Row.
        t: Time in integer ticks, microseconds in all the built-in data sets.
        p: Polarity, 0 (off) or 1 (on).
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray


def as_events(array: np.ndarray, order: str = ORDER) -> Events:
    """Split an event array into its columns; nothing is checked but the types.

    Args:
        array: Structured, with fields x and t, and y and p where the sensor has rows and polarities, in any order;
            or plain [E, 4] with columns in the order of `order`.
        order: Order of the columns of a plain array, a permutation of "xytp".

    Returns:
        The events; a missing y or p is 0.

    Raises:
        ConfigError: `order` is no permutation of "xytp".
        DataError: The array is neither, or holds what is no whole number.
    """
    if sorted(order) != sorted(ORDER):
        raise ConfigError(f"order must be a permutation of {ORDER!r}, not {order!r}")
    array = np.asarray(array)
    names = array.dtype.names
    if names is not None:
        columns = {name: array[name].reshape(-1) for name in names if name in ORDER}
    elif array.ndim == 2 and array.shape[1] == len(ORDER):
        columns = dict(zip(order, array.T, strict=True))
    else:
        raise DataError(
            f"events must be a structured array with fields x, y, t, p or a plain array [E, 4], "
            f"not {array.dtype} {list(array.shape)}"
        )
    for name in "xt":
        if name not in columns:
            raise DataError(f"the events have fields {', '.join(names or ())}, but {name!r} is needed")
    none = np.zeros(len(columns["t"]), np.int64)
    return Events(*(_whole(columns[name], name) if name in columns else none for name in ORDER))


def _whole(column: np.ndarray, name: str) -> np.ndarray:
    """Return a column as int64; a float that is no whole number would be cut silently."""
    kind = column.dtype.kind
    if kind not in "biuf":
        raise DataError(f"field {name!r} of the events is {column.dtype}, not numbers")
    if kind in "uf" and len(column) and not bool((np.abs(column) < 2**62).all()):
        raise DataError(f"field {name!r} of the events holds values that are not finite or too large")
    whole = column.astype(np.int64)
    if kind == "f" and not np.array_equal(whole, column):
        raise DataError(
            f"field {name!r} of the events is not whole; give times in integer ticks such as microseconds"
        )
    return whole


def checked(events: Events, sensor: Sensor, where: object, sort: bool = False) -> Events:
    """Check that events are on the sensor and in the order of time.

    Args:
        events: From a reader.
        sensor: What has recorded them.
        where: File or sample, for messages.
        sort: Bring events into the order of time (equal times stay as they are) instead of refusing disorder.

    Returns:
        The events.

    Raises:
        DataError: There are none, one is off the sensor, or time runs backwards.
    """
    if not len(events.t):
        raise DataError(f"{where} has no events")
    bounds = {"x": sensor.width, "y": sensor.height, "p": sensor.polarities}
    for name, bound in bounds.items():
        column = getattr(events, name)
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= bound:
            what = "polarity" if name == "p" else name
            raise DataError(
                f"{where} has an event with {what} {low if low < 0 else high}, outside 0 … {bound - 1} of the "
                f"sensor ({sensor.width}×{sensor.height}, {sensor.polarities} polarities)"
            )
    backwards = np.flatnonzero(np.diff(events.t) < 0)
    if not len(backwards):
        return events
    if not sort:
        first = int(backwards[0])
        raise DataError(
            f"{where} runs backwards in time: event {first + 1} is at {events.t[first + 1]}, after one at "
            f"{events.t[first]}; if the file is right but unsorted, set data.events.sort true"
        )
    order = np.argsort(events.t, kind="stable")
    return Events(*(column[order] for column in events))
