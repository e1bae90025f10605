-- The node of the cluster that runs a run, and that has the files of a session; empty without a cluster.
ALTER TABLE runs ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN node TEXT NOT NULL DEFAULT '';
