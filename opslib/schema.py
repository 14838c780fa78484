"""
This module knows the tables of the store, and nothing else: which column holds what. `store` says how they are used.
"""

import sqlalchemy as sa

from opslib.snapshot import FIELDS

_KINDS = {"count": sa.BigInteger, "number": sa.Double, "flag": sa.Boolean, "millis": sa.BigInteger, "text": sa.Text}

TABLES = sa.MetaData()
FACTS = sa.Table("meta", TABLES, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
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
    sa.Index(_name, *(SNAPSHOTS.c[c] for c in _columns), sqlite_where=_those, postgresql_where=_those)
ALIVE = sa.Table(
    "alive",
    TABLES,
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("field", sa.Text, primary_key=True),
    sa.Column("known_at_us", sa.BigInteger, primary_key=True),
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
)
