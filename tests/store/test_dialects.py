"""Nothing depends on SQLite's ways: tables and statements are valid SQL for PostgreSQL, too."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.dml import UpdateBase

import foldase.store
from foldase.store import schema

MODULES = [
    f"foldase.store.{module.name}"
    for module in pkgutil.iter_modules(foldase.store.__path__)
    if module.name != "migrations"
]


@pytest.mark.parametrize("dialect", [postgresql.dialect(), sqlite.dialect()], ids=["postgresql", "sqlite"])
def test_tables_and_prepared_statements_compile(dialect):
    statements = [
        (f"{name}.{found}", value)
        for name in MODULES
        for found, value in vars(importlib.import_module(name)).items()
        if isinstance(value, (Select, UpdateBase))
    ]
    assert len(statements) >= 12
    for name, statement in statements:
        assert str(statement.compile(dialect=dialect)), name
    for table in schema.metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect)).strip().startswith("CREATE TABLE")
        for index in table.indexes:
            assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_sequence_numbers_come_from_a_row_and_not_from_the_database():
    """A database's own sequences count in the order of asking; readers need the order of commits."""
    assert schema.event.c.seq.autoincrement is False
    ddl = str(CreateTable(schema.event).compile(dialect=postgresql.dialect()))
    assert "SERIAL" not in ddl
    assert "seq BIGINT NOT NULL" in ddl
