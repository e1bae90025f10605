-- The approvals and questions of agents. A run that waits for an answer still holds its session.
DROP INDEX run_under_way;
DROP INDEX runs_of_owner;
CREATE UNIQUE INDEX run_under_way ON runs (session_id) WHERE state IN ('queued', 'running', 'waiting');
CREATE INDEX runs_of_owner ON runs (owner) WHERE state IN ('queued', 'running', 'waiting');

CREATE TABLE interactions (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    session_id TEXT,
    backend TEXT NOT NULL,
    tool TEXT NOT NULL,
    title TEXT NOT NULL,
    input TEXT NOT NULL,
    command TEXT,
    workdir TEXT,
    diff TEXT,
    fields TEXT NOT NULL,
    choices TEXT NOT NULL,
    editable INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    resolved_at REAL,
    answered_by TEXT,
    answer TEXT
);

CREATE INDEX interactions_of_run ON interactions (run_id);
CREATE INDEX interactions_of_session ON interactions (session_id, created_at);
CREATE INDEX interactions_by_status ON interactions (status, created_at);
CREATE INDEX interactions_in_order ON interactions (created_at);

CREATE TRIGGER interactions_withdrawn AFTER UPDATE OF state ON runs
WHEN old.state <> new.state AND new.state NOT IN ('queued', 'running', 'waiting') BEGIN
    UPDATE interactions SET status = 'withdrawn', resolved_at = new.ended_at
    WHERE run_id = new.id AND status = 'pending';
END;

-- A run without a session is ephemeral: no text of it is kept.
CREATE TRIGGER interactions_dropped AFTER UPDATE OF state ON runs
WHEN new.session_id IS NULL AND new.state NOT IN ('queued', 'running', 'waiting') BEGIN
    DELETE FROM interactions WHERE run_id = new.id;
END;
