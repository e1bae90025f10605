-- A session can be archived: lists leave it out unless they ask for archived sessions.
ALTER TABLE sessions ADD COLUMN archived boolean NOT NULL DEFAULT false;

DROP INDEX sessions_in_order;
DROP INDEX sessions_of_backend;
DROP INDEX sessions_by_status;
CREATE INDEX sessions_in_order ON sessions (archived, last_used DESC, key DESC) INCLUDE (resumable);
CREATE INDEX sessions_of_backend ON sessions (backend, archived, status, last_used DESC, key DESC);
CREATE INDEX sessions_by_status ON sessions (status, archived, last_used DESC, key DESC);
CREATE INDEX sessions_of_project ON sessions USING hash (project);  -- paths may be longer than other indexes allow
