"""Every error a user can meet, in one tree.

    RobotRLError
    +-- ConfigError             a file, flag, name or combination that cannot work
    +-- ShapeError              an array of the wrong shape, type or with non-finite numbers
    +-- DeviceError             something with a plug
    |   +-- DeviceConnectionError   cannot be reached
    |   +-- DeviceTimeoutError      did not answer in time
    |   +-- StaleStateError         answered, but its data is too old to act on
    |   +-- DeviceFaultError        reports a fault of its own (reflex, protective stop)
    +-- SafetyError             a command the safety supervisor refused
    +-- StoreError              episodes, checkpoints or the disk under them
    +-- LinkError               another process or machine of the same run

A message states the value, the limit, where the limit is set, what was done and what to do next.
On the command line each is one message and exit code 2, never a traceback.
"""


class RobotRLError(Exception):
    """Root of the tree. Keyword arguments become attributes, so that code can read what the message says.

    Args:
        message: One or a few sentences for a person.
        fields: The quantities the message names, for example ``limit=0.1``.
    """

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.fields = fields

    def __getattr__(self, name: str) -> object:
        fields: dict[str, object] = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {sorted(fields)}")


class ConfigError(RobotRLError):
    """A file, flag, name or combination of them that cannot work."""


class ShapeError(RobotRLError):
    """An array of the wrong shape or type, or with non-finite numbers."""


class DeviceError(RobotRLError):
    """A device failed."""


class DeviceConnectionError(DeviceError):
    """A device cannot be reached."""


class DeviceTimeoutError(DeviceError):
    """A device did not answer in time."""


class StaleStateError(DeviceError):
    """A device answered, but with data too old to act on."""


class DeviceFaultError(DeviceError):
    """A device reports a fault of its own, such as a reflex or a protective stop."""


class SafetyError(RobotRLError):
    """The safety supervisor refused a command."""


class StoreError(RobotRLError):
    """Episodes, checkpoints or the disk under them cannot be read or written."""


class LinkError(RobotRLError):
    """Another process or machine of the same run is gone or does not speak our protocol."""
