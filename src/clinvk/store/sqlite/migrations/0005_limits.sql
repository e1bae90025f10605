-- The newest state of each limit window of the user's accounts, as the agents report them.
CREATE TABLE limits (
    backend TEXT NOT NULL,
    window TEXT NOT NULL,
    used_percent REAL,
    status TEXT NOT NULL,
    resets_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (backend, window) ON CONFLICT REPLACE
) WITHOUT ROWID;
