"""What the driver is given instead of what SQLAlchemy would give it."""

import pytest
from sqlalchemy import Text, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.statements import Statement, array


@pytest.mark.parametrize(
    "texts", [[], ["a"], ["", "NULL", "a,b", "{}"], ['quotes " and \\', "\n\t ü 你 '"], ["%s", "%(x)s"]]
)
def test_an_array_is_read_as_it_was_written(database: Database, texts: list[str]) -> None:
    asked = bindparam("texts", type_=ARRAY(Text))
    statement = Statement(select(func.array_to_json(asked), literal("it's")), "texts")
    with database.driver() as connection:
        assert statement.rows(connection, texts=array(texts)) == [(texts, "it's")]


def test_the_driver_says_too_that_the_database_is_away(database: Database) -> None:
    ended = Statement(select(func.pg_terminate_backend(func.pg_backend_pid())))
    with pytest.raises(DatabaseUnavailable), database.driver() as connection:
        ended.rows(connection)
    with database.driver() as connection:
        assert Statement(select(literal(1))).rows(connection) == [(1,)]


def test_a_connection_that_was_left_within_a_transaction_is_not_lent_again(database: Database) -> None:
    def leave() -> None:
        with database.driver() as connection:
            connection.execute("BEGIN")
            raise KeyError("a defect")

    with pytest.raises(KeyError):
        leave()
    with database.driver() as connection:
        assert connection.info.transaction_status.name == "IDLE"
