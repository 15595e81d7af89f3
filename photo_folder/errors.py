"""The one error of this room."""

from terminal import UserError


class FolderError(UserError):
    """There is no folder or table of photos, or what is there cannot be understood."""
