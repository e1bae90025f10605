-- The directory that the user chose for a session: its `working_dir`, unless the agent works in a worktree.
ALTER TABLE sessions ADD COLUMN project text NOT NULL DEFAULT '';
UPDATE sessions SET project = working_dir;
