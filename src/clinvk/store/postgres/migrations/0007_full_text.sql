-- The words of a run for full-text search; null until the run is indexed, in the background, after its end.
ALTER TABLE runs ADD COLUMN words tsvector;
CREATE INDEX runs_by_words ON runs USING gin (words);
CREATE INDEX runs_to_index ON runs (key) WHERE words IS NULL AND session_id IS NOT NULL AND ended_at IS NOT NULL;

CREATE FUNCTION forget_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.words := NULL;
    RETURN new;
END $$;

CREATE TRIGGER words_outdated BEFORE UPDATE OF prompt, steering, output ON runs FOR EACH ROW
WHEN (old.words IS NOT NULL
    AND (old.prompt, old.steering, old.output) IS DISTINCT FROM (new.prompt, new.steering, new.output))
EXECUTE FUNCTION forget_words();
