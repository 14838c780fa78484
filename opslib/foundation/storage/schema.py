"""Define the tables of the database: which column holds what."""

from typing import Any

import sqlalchemy as sa

from opslib.foundation.storage import cell_types
from opslib.foundation.storage.snapshot_columns import FIELDS

_KINDS = {"count": sa.BigInteger, "number": sa.Double, "flag": sa.Boolean, "millis": sa.BigInteger, "text": sa.Text}

TABLES = sa.MetaData()
FACTS = sa.Table(
    "meta", TABLES, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
_seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")
SNAPSHOTS = sa.Table(
    "snapshots",
    TABLES,
    sa.Column("seq", _seq, primary_key=True, autoincrement=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("load_ms", sa.BigInteger),
    sa.Column("errors_by_type", sa.Text),
    *(sa.Column(f.name, _KINDS[f.kind]) for f in FIELDS),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("app", "digest", name="one_body_one_row"),
    sa.Index("snapshots_by_time", "app", "ts_us"),
    sqlite_autoincrement=True,
)
for _name, _columns, _those in (
    ("snapshots_by_load", ("app", "load_ms", "ts_us", "known_at_us"), SNAPSHOTS.c.page_id.is_(None)),
    ("snapshots_by_page", ("app", "page_id", "ts_us", "known_at_us"), SNAPSHOTS.c.page_id.is_not(None)),
):
    sa.Index(_name, *(SNAPSHOTS.c[c] for c in _columns), sqlite_where=_those)


@sa.event.listens_for(SNAPSHOTS, "before_create")
def _limit_indexes(table: sa.Table, connection: sa.Connection, **_: Any) -> None:
    """Limit the indexes on PostgreSQL as on SQLite; named above, every command would import PostgreSQL's dialect."""
    if connection.dialect.name == "postgresql":
        for index in table.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]


ALIVE = sa.Table(
    "alive",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("field", sa.Text, primary_key=True),
    sa.Column("known_at_us", sa.BigInteger, primary_key=True),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
)
REJECTS = sa.Table(
    "rejects",
    TABLES,
    sa.Column("seq", _seq, primary_key=True, autoincrement=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("app", "digest", name="one_reject_one_row"),
    sqlite_autoincrement=True,
)
RUNS = sa.Table(
    "runs",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("notebook", sa.Text, nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("outputs", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("due", sa.Text),
    sa.Column("kernel", sa.Text),
    sa.Index("runs_due", "app", "due"),
)
ALERTS = sa.Table(
    "alerts",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("rule", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
)
TRANSITIONS = sa.Table(
    "transitions",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("rule", "subject", "source", "alert", "kind", "severity")),
    sa.Column("value", sa.Double),
    sa.Column("limit", sa.Double),
    sa.Column("pending_us", sa.BigInteger, nullable=False),
    sa.Column("peak", sa.Double),
    sa.Column("inhibited_by", sa.Text),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("rules_hash", sa.Text, nullable=False),
    sa.Index("transitions_by_time", "app", "at_us"),
)
OUTBOX = sa.Table(
    "outbox",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("transition", sa.BigInteger, nullable=False),
    sa.Column("edge", sa.Text, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
)
JUDGED = sa.Table(
    "judged",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("begun_us", sa.BigInteger, nullable=False),
    sa.Column("upto_us", sa.BigInteger, nullable=False),
)
LEASES = sa.Table(
    "leases",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
)
SAMPLES = sa.Table(
    "samples",
    TABLES,
    sa.Column("seq", _seq, primary_key=True, autoincrement=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("probe", "subject", "outcome")),
    sa.Column("seconds", sa.Double),
    sa.Column("value", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("last", sa.Boolean, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("samples_by_time", "app", "ts_us"),
    sqlite_autoincrement=True,
)
CHAINS = sa.Table(
    "chains",
    TABLES,
    sa.Column("seq", _seq, primary_key=True, autoincrement=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("symbol", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("chains_by_symbol", "app", "symbol", "ts_us"),
    sqlite_autoincrement=True,
)
FILLS = sa.Table(
    "fills",
    TABLES,
    sa.Column("seq", _seq, primary_key=True, autoincrement=True),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "source", "symbol", "order_id")),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("app", "digest", name="one_fill_one_row"),
    sa.Index("fills_by_time", "app", "ts_us"),
    sqlite_autoincrement=True,
)
ACTS = sa.Table(
    "acts",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "id", "author", "reason", "detail")),
    sa.Column("until_us", sa.BigInteger),
)
NOTICES = sa.Table(
    "notices",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("alert", sa.Text, primary_key=True),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Index("notices_open", "app", "open"),
)
MESSAGES = sa.Table(
    "messages",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("made_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
DELIVERIES = sa.Table(
    "deliveries",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("message", "channel", "about", "state")),
    sa.Column("made_us", sa.BigInteger, nullable=False),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("due_us", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("claimed_until_us", sa.BigInteger, nullable=False),
    sa.Column("over_us", sa.BigInteger),
    sa.Column("said", sa.Text, nullable=False),
    sa.Index("deliveries_due", "app", "state", "channel", "due_us"),
)
FOREIGN = sa.Table(
    "foreign_alerts",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    sa.Column("starts_us", sa.BigInteger, nullable=False),
    sa.Column("ends_us", sa.BigInteger, nullable=False),
    sa.Column("said_over", sa.Boolean, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("labels", "annotations")),
)
MARKS = sa.Table(
    "marks",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("ts_us", sa.BigInteger, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "author", "words")),
    sa.Index("marks_by_time", "app", "ts_us"),
)
INCIDENTS = sa.Table(
    "incidents",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("opened_us", sa.BigInteger, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("into", sa.Text, nullable=False),
    sa.UniqueConstraint("app", "about", name="one_group_one_incident"),
)
ENTRIES = sa.Table(
    "entries",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("incident", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.Text),
    sa.Column("line", sa.Text, nullable=False),
    sa.UniqueConstraint("app", "incident", "key", name="one_key_one_entry"),
)
PICTURES = sa.Table(
    "pictures",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

cell_types.check_columns(
    TABLES,
    {
        "snapshots.errors_by_type": dict,
        "rejects.reasons": list,
        "runs.parameters": dict,
        "runs.outputs": list,
        "alerts.state": dict,
        "fills.body": dict,
        "acts.detail": dict,
        "notices.state": dict,
        "messages.body": dict,
        "foreign_alerts.labels": dict,
        "foreign_alerts.annotations": dict,
    },
)
