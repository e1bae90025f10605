-- Whether the session of a part of this run, an orchestration, was deleted: then it keeps no text, also at its end.
ALTER TABLE runs ADD COLUMN lost_text INTEGER NOT NULL DEFAULT 0;
