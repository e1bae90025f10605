-- Sessions, their runs, the events of the runs, interactions, usage, limits, and the processes with runs.
--
-- Values are JSON as text where a field is no plain value, as in SQLite: `jsonb` would not return the same text.
-- Each order in which lists are read has an index. Totals are counted: rows with totals, as in SQLite, would make the
-- transactions of all machines wait for each other.

-- The processes that use the database. Each sets `seen_at` every second, by the clock of the database, and
-- `returned_at` after a gap in its reports.
CREATE TABLE owners (
    id text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    seen_at timestamptz NOT NULL,
    returned_at timestamptz NOT NULL DEFAULT '-infinity'
);

-- Whether a process has reported within the last 4 s. After a start of the server, or a gap in the reports of the
-- process that asks (`judge`), all processes count as alive for 5 s: they may have been cut off too.
CREATE FUNCTION is_alive(process text, judge text) RETURNS boolean LANGUAGE sql AS $$
    SELECT process = judge
        OR EXISTS (SELECT 1 FROM owners WHERE id = process AND seen_at > clock_timestamp() - interval '4 s')
        OR pg_postmaster_start_time() > clock_timestamp() - interval '5 s'
        OR EXISTS (
            SELECT 1 FROM owners WHERE id = judge
            AND (returned_at > clock_timestamp() - interval '5 s' OR seen_at < clock_timestamp() - interval '4 s')
        )
$$;

CREATE TABLE sessions (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    backend text NOT NULL,
    created_at double precision NOT NULL,
    last_used double precision NOT NULL,
    working_dir text NOT NULL,
    backend_session_id text,
    resumable boolean NOT NULL,
    model text,
    status text NOT NULL,
    turn_count bigint NOT NULL,
    token_usage text NOT NULL,
    counted text NOT NULL,
    tags text NOT NULL,
    title text NOT NULL,
    parent_id text,
    forks_parent boolean NOT NULL,
    error_message text,
    metadata text NOT NULL,
    initial_prompt text NOT NULL,
    node text NOT NULL
);

CREATE INDEX sessions_in_order ON sessions (last_used DESC, key DESC) INCLUDE (resumable);
CREATE INDEX sessions_of_backend ON sessions (backend, status, last_used DESC, key DESC);
CREATE INDEX sessions_by_status ON sessions (status, last_used DESC, key DESC);
CREATE INDEX sessions_of_directory ON sessions USING hash (working_dir);  -- paths may be longer than other indexes allow

-- What lists search in: apart from the sessions, whose rows each run writes several times.
CREATE TABLE session_words (
    session bigint PRIMARY KEY REFERENCES sessions (key) ON DELETE CASCADE,
    words text NOT NULL,
    tags text[] NOT NULL
);

CREATE INDEX session_tags ON session_words USING gin (tags);

-- Without the extension, or the right to create it, a search reads all words.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX session_text ON session_words USING gin (words gin_trgm_ops);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'no index for searching text: %', SQLERRM;
END $$;

-- `from_terminal`: a prompt of the command line that is no part of an orchestration. `waits` is 0 for a run that has
-- its turn, 1 for a run that waits for its turn, and 2 for a run whose turn comes before theirs. `stopped`: the run was
-- ended in place of its process. `lost_text`: the session of a part of this run, an orchestration, was deleted.
CREATE TABLE runs (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    session_id text COLLATE "C" REFERENCES sessions (id) ON DELETE CASCADE,
    parent_id text,
    owner text NOT NULL,
    waits smallint NOT NULL,
    from_terminal boolean NOT NULL,
    stopped boolean NOT NULL DEFAULT false,
    lost_text boolean NOT NULL DEFAULT false,
    backend text NOT NULL,
    state text NOT NULL,
    under_way boolean GENERATED ALWAYS AS (state IN ('queued', 'running', 'waiting')) STORED,
    created_at double precision NOT NULL,
    started_at double precision,
    ended_at double precision,
    workdir text NOT NULL,
    model text,
    request text NOT NULL,
    usage text,
    cost_usd double precision,
    stop_reason text,
    exit_code integer,
    error_code text,
    error_message text,
    prompt text NOT NULL,
    output text NOT NULL,
    key_name text NOT NULL,
    node text NOT NULL
);

-- The claim: a session has one run under way, whichever process began it.
CREATE UNIQUE INDEX run_under_way ON runs (session_id) WHERE under_way AND waits = 0;
CREATE INDEX runs_of_owner ON runs (owner) WHERE under_way;
CREATE INDEX runs_in_order ON runs (created_at DESC, key DESC);
CREATE INDEX runs_by_state ON runs (state, created_at DESC, key DESC);
CREATE INDEX runs_of_backend ON runs (backend, state, created_at DESC, key DESC);
CREATE INDEX runs_of_session ON runs (session_id, created_at DESC, key DESC);
CREATE INDEX runs_of_parent ON runs (parent_id, created_at DESC, key DESC) WHERE parent_id IS NOT NULL;

CREATE TABLE chunks (
    run bigint REFERENCES runs (key) ON DELETE CASCADE,
    last bigint,
    data bytea NOT NULL,
    PRIMARY KEY (run, last)
);

CREATE TABLE interactions (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    kind text NOT NULL,
    run_id text COLLATE "C" NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    session_id text,
    backend text NOT NULL,
    tool text NOT NULL,
    title text NOT NULL,
    note text NOT NULL,
    input text NOT NULL,
    command text,
    workdir text,
    diff text,
    fields text NOT NULL,
    choices text NOT NULL,
    editable boolean NOT NULL,
    accepts_reason boolean NOT NULL,
    key_name text NOT NULL,
    status text NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    resolved_at double precision,
    answered_by text,
    answer text
);

CREATE INDEX interactions_of_run ON interactions (run_id);
CREATE INDEX interactions_of_session ON interactions (session_id, created_at DESC);
CREATE INDEX interactions_by_status ON interactions (status, created_at DESC);
CREATE INDEX interactions_in_order ON interactions (created_at DESC, key DESC);

-- The newest state of each limit window of the users' accounts, as the agents report them.
CREATE TABLE limits (
    backend text,
    "window" text,
    used_percent double precision,
    status text NOT NULL,
    resets_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    PRIMARY KEY (backend, "window")
);

-- What runs used, by day (UTC), key, backend and model. Stays when runs are deleted.
CREATE TABLE usage (
    day text COLLATE "C",
    key_name text COLLATE "C",
    backend text COLLATE "C",
    model text COLLATE "C",
    runs bigint NOT NULL,
    cost_usd double precision NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    PRIMARY KEY (day, key_name, backend, model)
);

-- Add (1) or subtract (-1) what an ended run used. An orchestration, which has no backend, sums up its parts.
CREATE FUNCTION count_usage(run runs, sign integer) RETURNS void LANGUAGE sql AS $$
    INSERT INTO usage AS stored
    SELECT to_char(to_timestamp(run.created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), run.key_name, run.backend,
        left(coalesce(run.model, ''), 200), sign, sign * coalesce(run.cost_usd, 0),
        sign * coalesce((run.usage::json ->> 'input_tokens')::bigint, 0),
        sign * coalesce((run.usage::json ->> 'output_tokens')::bigint, 0),
        sign * coalesce((run.usage::json ->> 'cached_tokens')::bigint, 0),
        sign * coalesce((run.usage::json ->> 'reasoning_tokens')::bigint, 0)
    WHERE run.ended_at IS NOT NULL AND run.backend <> ''
    ON CONFLICT (day, key_name, backend, model) DO UPDATE SET
        runs = stored.runs + excluded.runs,
        cost_usd = stored.cost_usd + excluded.cost_usd,
        input_tokens = stored.input_tokens + excluded.input_tokens,
        output_tokens = stored.output_tokens + excluded.output_tokens,
        cached_tokens = stored.cached_tokens + excluded.cached_tokens,
        reasoning_tokens = stored.reasoning_tokens + excluded.reasoning_tokens
$$;

-- A run that was declared interrupted may turn out to go on, and ends again: then the first end is taken back.
CREATE FUNCTION run_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF old.ended_at IS NOT NULL THEN
        PERFORM count_usage(old, -1);
    END IF;
    IF new.ended_at IS NOT NULL THEN
        PERFORM count_usage(new, 1);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER run_ended AFTER UPDATE OF ended_at, usage, cost_usd, model ON runs FOR EACH ROW
WHEN ((old.ended_at, old.usage, old.cost_usd, old.model) IS DISTINCT FROM
    (new.ended_at, new.usage, new.cost_usd, new.model) AND (old.ended_at IS NOT NULL OR new.ended_at IS NOT NULL))
EXECUTE FUNCTION run_ended();

-- A run without a session is ephemeral: no text of it is kept.
CREATE FUNCTION withdraw_interactions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.session_id IS NULL THEN
        DELETE FROM interactions WHERE run_id = new.id;
    ELSE
        UPDATE interactions SET status = 'withdrawn', resolved_at = new.ended_at
        WHERE run_id = new.id AND status = 'pending';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER interactions_withdrawn AFTER UPDATE OF state ON runs FOR EACH ROW
WHEN (old.under_way AND NOT new.under_way)
EXECUTE FUNCTION withdraw_interactions();

-- The API keys, as the file in a clinvk home has them: one row, or none before the first key.
CREATE TABLE keys (
    version bigint NOT NULL,
    content text NOT NULL
);
CREATE UNIQUE INDEX one_row_of_keys ON keys ((true));
