"""The one error that bad input raises."""


class LutcError(ValueError):
    """Says in one line what was given, what is allowed and what to do. The command line prints it and exits with 2."""


class RangeWarning(UserWarning):
    """A table goes on as a line beyond the range that it was made for, where its function does not."""


class ScaleWarning(UserWarning):
    """A table of another scale serves: the set has none of the one that was asked for."""
