-- The topics that triggers want -> topic.
SELECT DISTINCT topic FROM etl.subscription
