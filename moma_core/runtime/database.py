"""Opens a database whose commits last and whose transactions never deadlock."""

import logging
import sqlite3
from functools import partial
from typing import cast

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

from moma_core.errors import TeacherUnavailableError, printable_line

_logger = logging.getLogger(__name__)

_TABLES_LOCK = 7_021_883  # any number that no other program takes
_LOCK_SECONDS = 30  # that a writer waits for another one
_READ_ONLY = "moma_read_only"
_LONGEST_REASON = 300


def open_database(url: str) -> Engine:
    """Returns an engine that behaves alike on SQLite and on a database server.

    A transaction on SQLite takes the write lock when it begins, which stands in for
    SELECT ... FOR UPDATE; a commit is on the disk when it returns, whatever a
    server's defaults are. A connection that a restart of it has cut is replaced.

    A server that is away, a full disk and a file that cannot be read are one line in
    the log, and a TeacherUnavailableError: what was asked may be asked again.

    Args:
        url: SQLAlchemy's, for example `sqlite:////var/lib/moma/budget.db`.
    """
    where = make_url(url).render_as_string(hide_password=True)
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url)
        event.listen(engine, "handle_error", partial(_translate, where))
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
    event.listen(engine, "handle_error", partial(_translate, where))
    event.listen(engine, "connect", _wait_for_the_disk)
    return engine


def reading(engine: Engine) -> Engine:
    """Returns an engine whose transactions only read, and hold back no writer.

    Such a transaction sees one state of the database from its first statement to its
    last, whoever writes meanwhile.
    """
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READ_ONLY: True})
    return engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )


def create_tables(engine: Engine, *tables: MetaData) -> None:
    """Makes the tables that are missing; several gateways may start at once."""
    with engine.begin() as database:
        if engine.dialect.name == "postgresql":
            database.execute(select(func.pg_advisory_xact_lock(_TABLES_LOCK)))
        for each in tables:
            each.create_all(database)


def insert_if_new(database: Connection, table: Table, **values: object) -> None:
    """Inserts a row, unless there is one with its key."""
    database.execute(insert_new(database, table).values(values))


def insert_new(database: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Returns an insert that passes over rows whose keys are there."""
    if database.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _translate(where: str, context: ExceptionContext) -> BaseException | None:
    """Returns what is raised in place of an error that the machine around us caused.

    A connection that is only looked at before use is replaced, and nobody need know.
    """
    error = context.sqlalchemy_exception
    is_machines = isinstance(error, OperationalError | InterfaceError)
    is_damage = type(error) is DatabaseError  # as SQLite says it of its file
    if context.is_pre_ping or not (is_machines or is_damage):
        return None
    reason = printable_line(str(context.original_exception).strip(), _LONGEST_REASON)
    _logger.error("the database %s cannot be used: %s", where, reason)
    return TeacherUnavailableError(
        "the teacher's database cannot be used now; its log says why"
    )


def _prepare_sqlite(dbapi: DBAPIConnection, _record: object) -> None:
    connection = cast("sqlite3.Connection", dbapi)
    connection.isolation_level = None  # transactions begin below, not by themselves
    for pragma in (
        f"busy_timeout = {_LOCK_SECONDS * 1000}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _wait_for_the_disk(connection: DBAPIConnection, _record: object) -> None:
    """Does not weaken a server that waits for its standby as well."""
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
