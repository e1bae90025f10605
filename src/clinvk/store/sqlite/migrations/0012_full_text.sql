-- Whether the full-text index has the words of a run. The index is filled in the background with the ended runs of
-- sessions, the newest first. It is made with its triggers by `search.py`, since not each build of SQLite can make one.
ALTER TABLE runs ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX runs_to_index ON runs (key) WHERE indexed = 0 AND session_id IS NOT NULL AND ended_at IS NOT NULL;
