"""Errors of training, all of them sentences for people.

UserError
└── TrainingError
    ├── DataError      the photos, or the cache made from them
    ├── ConfigError    a recipe or a setting
    ├── RunError       a run directory: of another config, not to be written
    │   ├── BusyError
    │   ├── SettingsError      the fault of the settings: another search trial may do better
    │   │   └── DivergedError
    │   └── StoppedError
    └── ExportError    the exported model is not the trained one
"""

from terminal import UserError


class TrainingError(UserError):
    """The base of every error of this room."""


class DataError(TrainingError):
    """The photos, or the cache made from them, cannot be trained on."""


class ConfigError(TrainingError):
    """A recipe or a setting is unknown or out of range."""


class RunError(TrainingError):
    """A run directory cannot be trained in, or training in it failed."""


class ExportError(TrainingError):
    """The exported model does not answer as the trained one."""


class BusyError(RunError):
    """Another process trains in the run directory."""


class SettingsError(RunError):
    """The settings cannot be trained with here, such as a batch that fits no memory."""


class DivergedError(SettingsError):
    """The loss is not finite."""


class StoppedError(RunError):
    """The run was asked to stop, and saved a checkpoint first."""

    exit_code = 75
    """EX_TEMPFAIL: the same command goes on."""
