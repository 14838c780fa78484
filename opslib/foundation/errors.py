"""
Define what can go wrong, with its exit code.

    OpsError                     exit 70: refused or failed
    ├── UsageError               exit 64: the command or call was written wrongly
    │   └── UnknownParameter     a notebook has no such parameter, or not of that type
    ├── SettingsError            the environment or a settings file cannot be read as meant
    ├── RulesError               rules.toml is not a table of limits that can be judged
    ├── BadSnapshot              what a page posted is not dashboard metrics; names every bad field
    ├── BadFill                  a row is no fill; names every bad column
    ├── BadAlerts                what another monitor sent is no list of alerts
    ├── ImportRefused            a file is not what it should be
    ├── StoreError               the store cannot be opened, read or written
    ├── NotebookFailed           a notebook did not run to its end
    ├── AlreadyMade              what is due was made, or is being made, by somebody else
    ├── ReportRefused            a report cannot be made, or not yet
    └── IncidentError            an incident, its runbook or its postmortem is not such that this can be done
        └── OperatorNeeded       a step changes the world, and nobody has put their name to it

Every message says what was wanted, what was found and what to do.
"""


class OpsError(Exception):
    """Anything this suite refuses or fails at; `exit_code` is what a shell sees."""

    exit_code = 70


class UsageError(OpsError):
    """The command or call was written wrongly."""

    exit_code = 64


class UnknownParameter(UsageError):
    """A notebook has no such parameter, or the value is not of its type."""


class SettingsError(OpsError):
    """The environment or a settings file cannot be read as meant."""


class RulesError(OpsError):
    """
    rules.toml is not a table of limits that can be judged.

    Attributes:
        problems: Every problem with its place.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class BadSnapshot(OpsError):
    """
    What a page posted is not dashboard metrics.

    Attributes:
        fields: Every bad field with what was expected of it and what stood there, not only the first.
    """

    def __init__(self, fields: list[str]):
        self.fields = fields
        super().__init__("; ".join(fields))


class BadFill(OpsError):
    """
    A row of a broker's file is no fill.

    Attributes:
        reasons: Every bad column with what stood there and what was wanted.
    """

    def __init__(self, reasons: list[str]):
        self.reasons = reasons
        super().__init__("; ".join(reasons))


class BadAlerts(OpsError):
    """What another monitor sent is no list of alerts, as Alertmanager takes them."""


class BadLogs(OpsError):
    """What a log drain sent is not lines of a log."""


class ImportRefused(OpsError):
    """A file is not what it should be."""


class StoreError(OpsError):
    """The store cannot be opened, read or written."""


class NotebookFailed(OpsError):
    """A notebook did not run to its end."""


class AlreadyMade(OpsError):
    """What is due was made, or is being made, by somebody else."""


class ReportRefused(OpsError):
    """A report cannot be made, or not yet."""


class IncidentError(OpsError):
    """An incident, its runbook or its postmortem is not such that this can be done."""


class OperatorNeeded(IncidentError):
    """A step changes the world, and nobody has put their name to it."""
