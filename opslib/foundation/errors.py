"""
Define the exceptions of ops and their exit codes.

    OpsError                     exit 70: refused or failed
    ├── UsageError               exit 64: the command or call is invalid
    │   └── UnknownParameter     the notebook has no such parameter, or the value has the wrong type
    ├── SettingsError            the environment or a settings file is invalid
    ├── RulesError               rules.toml is invalid
    ├── BadSnapshot              a page posted something that is not dashboard metrics
    ├── BadFill                  a row is not a fill
    ├── BadAlerts                an external monitoring system sent something that is not a list of alerts
    ├── BadLogs                  a log drain sent something that is not log lines
    ├── ImportRefused            a file cannot be read as what it should be
    ├── StoreError               the database cannot be opened, read or written
    ├── NotebookFailed           a notebook did not run to its end
    ├── AlreadyMade              another process has run this due job, or is running it
    ├── ReportRefused            a report cannot be made, or not yet
    └── IncidentError            an incident, its runbook or its postmortem does not allow this action
        └── OperatorNeeded       a step changes something and needs the name of a person

Every message says what happened, what was expected and what to do.
"""


class OpsError(Exception):
    """A refusal or failure; `exit_code` is the exit code of the command."""

    exit_code = 70


class UsageError(OpsError):
    """The command or call is invalid."""

    exit_code = 64


class UnknownParameter(UsageError):
    """The notebook has no such parameter, or the value has the wrong type."""


class SettingsError(OpsError):
    """The environment or a settings file is invalid."""


class RulesError(OpsError):
    """
    rules.toml is invalid.

    Attributes:
        problems: Every problem with its place.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class BadSnapshot(OpsError):
    """
    A page posted something that is not dashboard metrics.

    Attributes:
        fields: Every bad field with what was expected and what was found, not only the first.
    """

    def __init__(self, fields: list[str]):
        self.fields = fields
        super().__init__("; ".join(fields))


class BadFill(OpsError):
    """
    A row of a broker's file is not a fill.

    Attributes:
        reasons: Every bad column with what was found and what was expected.
    """

    def __init__(self, reasons: list[str]):
        self.reasons = reasons
        super().__init__("; ".join(reasons))


class BadAlerts(OpsError):
    """An external monitoring system sent something that is not a list of alerts as Alertmanager accepts it."""


class BadLogs(OpsError):
    """A log drain sent something that is not log lines."""


class ImportRefused(OpsError):
    """A file cannot be read as what it should be."""


class StoreError(OpsError):
    """The database cannot be opened, read or written."""


class NotebookFailed(OpsError):
    """A notebook did not run to its end."""


class AlreadyMade(OpsError):
    """Another process has run this due job, or is running it."""


class ReportRefused(OpsError):
    """A report cannot be made, or not yet."""


class IncidentError(OpsError):
    """An incident, its runbook or its postmortem does not allow this action."""


class OperatorNeeded(IncidentError):
    """A step changes something and needs the name of a person."""
