"""Errors of training. Each message is for people: what is wrong, where, and what to do.

UserError
└── TrainingError
    ├── DataError      the photos, or the cache made from them
    ├── ConfigError    a recipe or a setting
    ├── RunError       a run directory: it holds another run, or cannot be written
    │   ├── BusyError          another process trains in it
    │   ├── SettingsError      the settings are the cause: other trials of a search may do better
    │   │   └── DivergedError      the loss or a weight is not finite
    │   └── StoppedError           asked to stop; a checkpoint is saved
    ├── ExportError    the exported model is not the trained one
    └── ReportError    all is trained, and its report could not be written
"""

from terminal import UserError


class TrainingError(UserError):
    """The base of every error that training raises."""


class DataError(TrainingError):
    """The photos, or the cache made from them, cannot be trained on."""


class ConfigError(TrainingError):
    """A recipe or a setting is unknown or out of range."""


class RunError(TrainingError):
    """A run directory cannot be trained in, or training in it failed."""


class ExportError(TrainingError):
    """The exported model does not answer as the trained one does."""


class ReportError(TrainingError):
    """All is trained and its results are written, but a report could not be."""

    exit_code = 73
    """EX_CANTCREAT of sysexits.h: nothing needs to be trained again."""


class BusyError(RunError):
    """Another process trains in the run directory."""


class SettingsError(RunError):
    """These settings cannot be trained with on this device, such as a batch too large for it."""


class DivergedError(SettingsError):
    """The loss or a weight is not finite."""


class StoppedError(RunError):
    """The run was asked to stop, and saved a checkpoint first."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: the same command goes on."""
