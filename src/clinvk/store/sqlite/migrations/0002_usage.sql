-- Which API key a run was asked for with, and what runs used, by day (UTC), key, backend and model.
--
-- The sums are kept apart from the runs: to delete those must not give a key back what it has used. The run that stands
-- for several agents together (its backend is empty) sums up its parts, so that it is left out.
ALTER TABLE runs ADD COLUMN key_name TEXT NOT NULL DEFAULT '';

CREATE TABLE usage (
    day TEXT NOT NULL,
    key_name TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    runs INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    PRIMARY KEY (day, key_name, backend, model)
) WITHOUT ROWID;

CREATE TRIGGER run_ended AFTER UPDATE OF ended_at ON runs
WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL AND new.backend <> '' BEGIN
    INSERT INTO usage VALUES (
        date(new.created_at, 'unixepoch'), new.key_name, new.backend, coalesce(new.model, ''), 1,
        coalesce(json_extract(new.usage, '$.input_tokens'), 0), coalesce(json_extract(new.usage, '$.output_tokens'), 0),
        coalesce(json_extract(new.usage, '$.cached_tokens'), 0),
        coalesce(json_extract(new.usage, '$.reasoning_tokens'), 0), coalesce(new.cost_usd, 0)
    )
    ON CONFLICT (day, key_name, backend, model) DO UPDATE SET
        runs = runs + 1,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        cost_usd = cost_usd + excluded.cost_usd;
END;
