-- The prompts that the agent of a run has received within its turn, as JSON.
ALTER TABLE runs ADD COLUMN steering TEXT NOT NULL DEFAULT '[]';

-- The runs of a session are listed in the order of their turns; the index has all columns that the order reads.
DROP INDEX runs_of_session;
CREATE INDEX runs_of_session ON runs (session_id, started_at, ended_at, waits);
