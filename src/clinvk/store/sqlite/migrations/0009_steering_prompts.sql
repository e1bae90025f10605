-- The prompts that the agent of a run has received within its turn, as JSON.
ALTER TABLE runs ADD COLUMN steering TEXT NOT NULL DEFAULT '[]';
