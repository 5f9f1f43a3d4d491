"""The one error that bad input raises."""


class LutcError(ValueError):
    """Says in one line what was given, what is allowed and what to do. The command line prints it and exits with 2."""


class ScaleWarning(UserWarning):
    """A table of another scale serves: the set has none of the one that was asked for."""
