-- Sessions, their runs, the events of those; and the totals, tags and words that keep every list fast.
--
-- A list is asked for by backend, state and whether it can be resumed, in one of four kinds: all sessions, those of a
-- directory, those with a tag, all runs. Each combination is a group: an index holds it in order of time, and `totals`,
-- which triggers keep, its size. So no list scans, neither for its items nor for its total. The exception is the size of
-- a directory's groups, which is counted in the index: to keep it would cost each run more than the few lists gain.

-- `resumable` says whether there is a handle. It is no generated column, as SQLite reads the whole row for one of those
-- though an index has it.
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    backend TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_used REAL NOT NULL,
    imported_at REAL,
    working_dir TEXT NOT NULL,
    backend_session_id TEXT,
    resumable INTEGER NOT NULL,
    model TEXT,
    status TEXT NOT NULL,
    turn_count INTEGER NOT NULL,
    token_usage TEXT NOT NULL,
    counted TEXT NOT NULL,
    tags TEXT NOT NULL,
    title TEXT NOT NULL,
    parent_id TEXT,
    forks_parent INTEGER NOT NULL,
    error_message TEXT,
    metadata TEXT NOT NULL,
    initial_prompt TEXT NOT NULL
);

CREATE INDEX sessions_in_order ON sessions (backend, status, resumable, last_used);
CREATE INDEX sessions_of_directory ON sessions (working_dir, backend, status, resumable, last_used);

CREATE TABLE session_tags (
    tag TEXT NOT NULL,
    backend TEXT NOT NULL,
    status TEXT NOT NULL,
    resumable INTEGER NOT NULL,
    last_used REAL NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (tag, backend, status, resumable, last_used, session)
) WITHOUT ROWID;

CREATE INDEX tags_of_session ON session_tags (session);

-- What `text` is looked for in. The full-text index, where SQLite has one, holds the rows up to `search.indexed`.
CREATE TABLE session_words (
    session INTEGER PRIMARY KEY REFERENCES sessions (key) ON DELETE CASCADE,
    words TEXT NOT NULL
);

CREATE TABLE search (indexed INTEGER NOT NULL);
INSERT INTO search VALUES (0);

CREATE TABLE runs (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    session_id TEXT REFERENCES sessions (id) ON DELETE CASCADE,
    parent_id TEXT,
    owner TEXT NOT NULL,
    backend TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    workdir TEXT NOT NULL,
    model TEXT,
    request TEXT NOT NULL,
    usage TEXT,
    cost_usd REAL,
    stop_reason TEXT,
    exit_code INTEGER,
    error_code TEXT,
    error_message TEXT,
    prompt TEXT NOT NULL,
    output TEXT NOT NULL
);

-- The claim: a session has one run under way, whichever process began it.
CREATE UNIQUE INDEX run_under_way ON runs (session_id) WHERE state IN ('queued', 'running');
CREATE INDEX runs_of_owner ON runs (owner) WHERE state IN ('queued', 'running');
CREATE INDEX runs_in_order ON runs (backend, state, created_at);
CREATE INDEX runs_of_session ON runs (session_id, created_at);
CREATE INDEX runs_of_parent ON runs (parent_id, created_at) WHERE parent_id IS NOT NULL;

CREATE TABLE chunks (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    last INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (run, last)
);

CREATE TABLE totals (
    list TEXT NOT NULL CHECK (list IN ('sessions', 'tag', 'runs')),
    value TEXT NOT NULL,
    backend TEXT NOT NULL,
    state TEXT NOT NULL,
    resumable INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (list, value, backend, state, resumable)
) WITHOUT ROWID;

-- Files of earlier stores that were looked at; `damage` is why one was not imported. The folder itself is ''.
CREATE TABLE imports (
    name TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    damage TEXT
) WITHOUT ROWID;

CREATE TRIGGER session_inserted AFTER INSERT ON sessions BEGIN
    INSERT INTO totals VALUES ('sessions', '', new.backend, new.status, new.resumable, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER session_inserted_with_tags AFTER INSERT ON sessions WHEN new.tags <> '[]' BEGIN
    INSERT INTO session_tags
    SELECT DISTINCT value, new.backend, new.status, new.resumable, new.last_used, new.key FROM json_each(new.tags);
END;

CREATE TRIGGER session_moved AFTER UPDATE OF status, resumable ON sessions
WHEN old.status <> new.status OR old.resumable <> new.resumable BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'sessions' AND value = '' AND backend = old.backend AND state = old.status
        AND resumable = old.resumable;
    INSERT INTO totals VALUES ('sessions', '', new.backend, new.status, new.resumable, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER session_used AFTER UPDATE OF status, resumable, last_used ON sessions WHEN new.tags <> '[]' BEGIN
    UPDATE session_tags SET status = new.status, resumable = new.resumable, last_used = new.last_used
    WHERE session = new.key;
END;

CREATE TRIGGER session_tagged AFTER UPDATE OF tags ON sessions WHEN old.tags <> new.tags BEGIN
    DELETE FROM session_tags WHERE session = old.key;
    INSERT INTO session_tags
    SELECT DISTINCT value, new.backend, new.status, new.resumable, new.last_used, new.key FROM json_each(new.tags);
END;

CREATE TRIGGER session_deleted AFTER DELETE ON sessions BEGIN
    DELETE FROM session_tags WHERE session = old.key;
    UPDATE totals SET total = total - 1
    WHERE list = 'sessions' AND value = '' AND backend = old.backend AND state = old.status
        AND resumable = old.resumable;
END;

CREATE TRIGGER tag_inserted AFTER INSERT ON session_tags BEGIN
    INSERT INTO totals VALUES ('tag', new.tag, new.backend, new.status, new.resumable, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tag_moved AFTER UPDATE ON session_tags
WHEN old.status <> new.status OR old.resumable <> new.resumable BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'tag' AND value = old.tag AND backend = old.backend AND state = old.status
        AND resumable = old.resumable;
    INSERT INTO totals VALUES ('tag', new.tag, new.backend, new.status, new.resumable, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tag_deleted AFTER DELETE ON session_tags BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'tag' AND value = old.tag AND backend = old.backend AND state = old.status
        AND resumable = old.resumable;
END;

CREATE TRIGGER run_inserted AFTER INSERT ON runs BEGIN
    INSERT INTO totals VALUES ('runs', '', new.backend, new.state, 0, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER run_moved AFTER UPDATE OF state ON runs WHEN old.state <> new.state BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'runs' AND value = '' AND backend = old.backend AND state = old.state AND resumable = 0;
    INSERT INTO totals VALUES ('runs', '', new.backend, new.state, 0, 1)
    ON CONFLICT (list, value, backend, state, resumable) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER run_deleted AFTER DELETE ON runs BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'runs' AND value = '' AND backend = old.backend AND state = old.state AND resumable = 0;
END;
