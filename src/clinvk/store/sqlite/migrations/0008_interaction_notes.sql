-- Why an agent asks, whether its model reads the reason of a denial, and the API key of the run.
ALTER TABLE interactions ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE interactions ADD COLUMN accepts_reason INTEGER NOT NULL DEFAULT 0;
ALTER TABLE interactions ADD COLUMN key_name TEXT NOT NULL DEFAULT '';
