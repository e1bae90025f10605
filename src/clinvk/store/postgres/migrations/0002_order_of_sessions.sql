-- Databases that were created before the index had the column `resumable`.
DROP INDEX sessions_in_order;
CREATE INDEX sessions_in_order ON sessions (last_used DESC, key DESC) INCLUDE (resumable);
