-- A run may wait until its session is free. `waits` is 0 for a run that needs no other to end, 1 for a run that waits
-- for its turn, and 2 for a run whose turn comes before theirs. A run that waits does not hold the session.
ALTER TABLE runs ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
DROP INDEX run_under_way;
CREATE UNIQUE INDEX run_under_way ON runs (session_id) WHERE state IN ('queued', 'running', 'waiting') AND waits = 0;
