-- The id of this database, by which the processes of a cluster recognize that they share the database: one row.
CREATE TABLE identity (id text NOT NULL);
CREATE UNIQUE INDEX one_row_of_identity ON identity ((true));
INSERT INTO identity SELECT replace(gen_random_uuid()::text, '-', '');
