-- Events in quarantine whose payload is blanked by a rule of redaction, as they were brought.
-- Locks: adds a column without a default (a moment's exclusive lock on etl.row_issue). Older programs refuse the newer
-- schema, so stop their workers first.

-- Only where `payload` is blanked and the event has no source row to be replayed from; gone as soon as it is closed.
ALTER TABLE etl.row_issue ADD COLUMN event jsonb;
