-- Sources whose table is not written: which rows were processed, and how far a cursor has come.
-- Locks: rewrites etl.source_cursor (one row per source) under a moment's exclusive lock; else creates new tables only.
-- Programs of before this migration refuse the newer schema, so stop their workers first.

-- A short name for a source, for tables with a row per row of the user's.
ALTER TABLE etl.source_cursor ADD COLUMN source_id integer GENERATED ALWAYS AS IDENTITY;
ALTER TABLE etl.source_cursor ADD CONSTRAINT source_cursor_id UNIQUE (source_id);

-- The ledger: rows of the user's table that were processed. `key` is the key's text (of several columns: a JSON array of
-- texts); `version` the text of the column that says when a row has changed, where the source names one.
CREATE TABLE etl.processed (
    source_id  integer NOT NULL,
    key        text COLLATE "C" NOT NULL,
    version    text,
    PRIMARY KEY (source_id, key)
);

-- How far a cursor has come: stretches of keys that are done with, each from after `after` (null: from the beginning) up
-- to and including `upto` (null: nothing yet). Neighbours are merged, so that there is one row for what is done without
-- a gap, and one for each island beyond it.
CREATE TABLE etl.covered (
    source  text NOT NULL,
    after   jsonb,
    upto    jsonb,
    UNIQUE NULLS NOT DISTINCT (source, after),
    CHECK (upto IS NOT NULL OR after IS NULL)
);
