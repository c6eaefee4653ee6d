-- Is there a place for receipts here?
SELECT pg_catalog.to_regclass('etl_sink.receipt') IS NOT NULL
