-- What a destination in another database keeps: one receipt for each source row, with the version that was written.
-- Made at the first use, where there is none. A receipt is worth something until its row is recorded as done.
CREATE SCHEMA etl_sink
    CREATE TABLE stream (
        stream_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        origin text NOT NULL,       -- the source's cluster and database
        source text NOT NULL,
        target text NOT NULL,       -- the table here
        UNIQUE (origin, source, target)
    )
    CREATE TABLE receipt (
        stream_id int NOT NULL,
        key text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        written_at timestamptz NOT NULL,
        PRIMARY KEY (stream_id, key)
    )
    CREATE INDEX receipt_written_at ON receipt USING brin (written_at)
