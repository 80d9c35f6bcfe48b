"""At home in the field: other people's networks in, deployable networks out."""

from ndsnn.interop.over_time import OverTime

__all__ = ["OverTime"]
