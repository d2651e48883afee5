"""How many rows statements touch at once: one that touches as many as there are takes longer than a statement may."""

from collections.abc import Sequence
from typing import Any, Literal

_NOTED = """
CREATE TABLE IF NOT EXISTS touched (name text, count bigint);
CREATE OR REPLACE FUNCTION note_touched() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO touched SELECT TG_TABLE_NAME, count(*) FROM rows HAVING count(*) > 0; RETURN NULL; END $$;
CREATE TRIGGER note_touched AFTER {verb} ON {table} REFERENCING {which} TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_touched();
"""


async def note_sizes(sql: Any, verb: Literal["INSERT", "DELETE"], *tables: str) -> None:
    """From now on, until the database is gone."""
    for table in tables:
        await sql.execute(_NOTED.format(verb=verb, table=table, which={"INSERT": "NEW", "DELETE": "OLD"}[verb]))


async def noted_sizes(sql: Any, table: str) -> Sequence[int]:
    """Of the statements that touched rows of the table, in order."""
    return [row[0] for row in await sql.fetch("SELECT count FROM touched WHERE name = $1 ORDER BY ctid", table)]
