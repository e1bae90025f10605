-- A session can be archived: lists leave it out unless they ask for archived sessions. So `archived` is one more column
-- of each group, and the lists of a project are in order of time like those of a directory.
ALTER TABLE sessions ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;

DROP INDEX sessions_in_order;
DROP INDEX sessions_of_directory;
CREATE INDEX sessions_in_order ON sessions (backend, status, resumable, archived, last_used);
CREATE INDEX sessions_of_directory ON sessions (working_dir, backend, status, resumable, archived, last_used);
CREATE INDEX sessions_of_project ON sessions (project, backend, status, resumable, archived, last_used);

DROP TRIGGER session_inserted;
DROP TRIGGER session_inserted_with_tags;
DROP TRIGGER session_moved;
DROP TRIGGER session_used;
DROP TRIGGER session_tagged;
DROP TRIGGER session_deleted;
DROP TRIGGER run_inserted;
DROP TRIGGER run_moved;
DROP TRIGGER run_deleted;
DROP TABLE session_tags;
DROP TABLE totals;

CREATE TABLE session_tags (
    tag TEXT NOT NULL,
    backend TEXT NOT NULL,
    status TEXT NOT NULL,
    resumable INTEGER NOT NULL,
    archived INTEGER NOT NULL,
    last_used REAL NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (tag, backend, status, resumable, archived, last_used, session)
) WITHOUT ROWID;

CREATE INDEX tags_of_session ON session_tags (session);

CREATE TABLE totals (
    list TEXT NOT NULL CHECK (list IN ('sessions', 'tag', 'runs')),
    value TEXT NOT NULL,
    backend TEXT NOT NULL,
    state TEXT NOT NULL,
    resumable INTEGER NOT NULL,
    archived INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (list, value, backend, state, resumable, archived)
) WITHOUT ROWID;

INSERT INTO session_tags
SELECT DISTINCT tags.value, backend, status, resumable, 0, last_used, sessions.key
FROM sessions, json_each(sessions.tags) AS tags;

INSERT INTO totals SELECT 'sessions', '', backend, status, resumable, 0, count(*) FROM sessions GROUP BY 3, 4, 5;
INSERT INTO totals SELECT 'tag', tag, backend, status, resumable, 0, count(*) FROM session_tags GROUP BY 2, 3, 4, 5;
INSERT INTO totals SELECT 'runs', '', backend, state, 0, 0, count(*) FROM runs GROUP BY 3, 4;

CREATE TRIGGER session_inserted AFTER INSERT ON sessions BEGIN
    INSERT INTO totals VALUES ('sessions', '', new.backend, new.status, new.resumable, new.archived, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER session_inserted_with_tags AFTER INSERT ON sessions WHEN new.tags <> '[]' BEGIN
    INSERT INTO session_tags
    SELECT DISTINCT value, new.backend, new.status, new.resumable, new.archived, new.last_used, new.key
    FROM json_each(new.tags);
END;

CREATE TRIGGER session_moved AFTER UPDATE OF status, resumable, archived ON sessions
WHEN old.status <> new.status OR old.resumable <> new.resumable OR old.archived <> new.archived BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'sessions' AND value = '' AND backend = old.backend AND state = old.status
        AND resumable = old.resumable AND archived = old.archived;
    INSERT INTO totals VALUES ('sessions', '', new.backend, new.status, new.resumable, new.archived, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER session_used AFTER UPDATE OF status, resumable, archived, last_used ON sessions WHEN new.tags <> '[]' BEGIN
    UPDATE session_tags
    SET status = new.status, resumable = new.resumable, archived = new.archived, last_used = new.last_used
    WHERE session = new.key;
END;

CREATE TRIGGER session_tagged AFTER UPDATE OF tags ON sessions WHEN old.tags <> new.tags BEGIN
    DELETE FROM session_tags WHERE session = old.key;
    INSERT INTO session_tags
    SELECT DISTINCT value, new.backend, new.status, new.resumable, new.archived, new.last_used, new.key
    FROM json_each(new.tags);
END;

CREATE TRIGGER session_deleted AFTER DELETE ON sessions BEGIN
    DELETE FROM session_tags WHERE session = old.key;
    UPDATE totals SET total = total - 1
    WHERE list = 'sessions' AND value = '' AND backend = old.backend AND state = old.status
        AND resumable = old.resumable AND archived = old.archived;
END;

CREATE TRIGGER tag_inserted AFTER INSERT ON session_tags BEGIN
    INSERT INTO totals VALUES ('tag', new.tag, new.backend, new.status, new.resumable, new.archived, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tag_moved AFTER UPDATE ON session_tags
WHEN old.status <> new.status OR old.resumable <> new.resumable OR old.archived <> new.archived BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'tag' AND value = old.tag AND backend = old.backend AND state = old.status
        AND resumable = old.resumable AND archived = old.archived;
    INSERT INTO totals VALUES ('tag', new.tag, new.backend, new.status, new.resumable, new.archived, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tag_deleted AFTER DELETE ON session_tags BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'tag' AND value = old.tag AND backend = old.backend AND state = old.status
        AND resumable = old.resumable AND archived = old.archived;
END;

CREATE TRIGGER run_inserted AFTER INSERT ON runs BEGIN
    INSERT INTO totals VALUES ('runs', '', new.backend, new.state, 0, 0, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER run_moved AFTER UPDATE OF state ON runs WHEN old.state <> new.state BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'runs' AND value = '' AND backend = old.backend AND state = old.state AND resumable = 0
        AND archived = 0;
    INSERT INTO totals VALUES ('runs', '', new.backend, new.state, 0, 0, 1)
    ON CONFLICT (list, value, backend, state, resumable, archived) DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER run_deleted AFTER DELETE ON runs BEGIN
    UPDATE totals SET total = total - 1
    WHERE list = 'runs' AND value = '' AND backend = old.backend AND state = old.state AND resumable = 0
        AND archived = 0;
END;
