"""The errors that metatuner raises on purpose.

MetatunerError
├── ConfigurationError      an argument is wrong: also a ValueError
│   └── SearchSpaceError    a hyperparameter, its distribution or its starting value is wrong
├── MissingPackageError     an optional package is not installed: also an ImportError
├── TrainingError           what is to be trained cannot be trained
├── CheckpointError         a saved state does not belong to what it is loaded into
├── PolicyError             a policy cannot be used
│   ├── UnknownPolicyError  no policy has this name
│   └── PolicyFileError     a policy's files are damaged, altered, of another schema, or not plain data
├── UnknownExperimentError  the experiment store has no experiment of this name
└── StoreError              the experiment store cannot be opened, created or written
    └── StoreUnreachableError  no answer from the experiment store: it may answer later

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class MetatunerError(Exception):
    """Base of every error that metatuner raises on purpose.

    Example:
        >>> import metatuner as mt
        >>> try:
        ...     policy = mt.Policy.load("schedule-dfault")
        ... except mt.MetatunerError as error:
        ...     print(error)
        no policy is called 'schedule-dfault': expected one of ..., or a policy's folder
    """


class ConfigurationError(MetatunerError, ValueError):
    """An argument is wrong."""


class SearchSpaceError(ConfigurationError):
    """A hyperparameter, its distribution or its starting value is wrong."""


class MissingPackageError(MetatunerError, ImportError):
    """An optional package is not installed."""


class TrainingError(MetatunerError):
    """What is to be trained cannot be trained."""


class CheckpointError(MetatunerError):
    """A saved state does not belong to what it is loaded into."""


class PolicyError(MetatunerError):
    """A policy cannot be used."""


class UnknownPolicyError(PolicyError):
    """No policy has this name."""


class PolicyFileError(PolicyError):
    """A policy's files are damaged, altered, of another schema, or not plain data."""


class UnknownExperimentError(MetatunerError):
    """The experiment store has no experiment of this name."""


class StoreError(MetatunerError):
    """The experiment store cannot be opened, created or written."""


class StoreUnreachableError(StoreError):
    """No answer from the experiment store: it may answer later."""
