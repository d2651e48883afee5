-- Roles that change, accounts that are erased, and a record of what administrators do.

-- Names and addresses are the same in any case and in any of Unicode's spellings, whatever the database's locale.
CREATE FUNCTION name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT normalize(casefold(normalize(name, NFKC) COLLATE pg_unicode_fast), NFKC)
$$;
DROP INDEX users_username_key, users_email_key;
CREATE UNIQUE INDEX users_username_key ON users (name_key(username));
CREATE UNIQUE INDEX users_email_key ON users (name_key(email));
-- One signs in with either: a name must not pass for an address, in no spelling of the @.
ALTER TABLE users ADD CONSTRAINT users_username_no_address CHECK (strpos(name_key(username), '@') = 0);

-- Set when the account was erased: the row stays for what refers to it, and says nothing about a person any more.
ALTER TABLE users ADD COLUMN erased_at timestamptz;

-- There is always an administrator. The lock makes two that resign at once take turns.
CREATE FUNCTION keep_an_admin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('keep_an_admin'));
    IF NOT EXISTS (SELECT FROM users WHERE role = 'admin' AND id <> OLD.id) THEN
        RAISE EXCEPTION 'the last administrator stays'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'users_last_admin', TABLE = 'users';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_an_admin BEFORE UPDATE OF role ON users FOR EACH ROW
    WHEN (OLD.role = 'admin' AND NEW.role <> 'admin') EXECUTE FUNCTION keep_an_admin();

-- Written in the transaction of what it tells of; no actor is an operator at the command line.
CREATE TABLE audit_log (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    actor_id uuid REFERENCES users ON DELETE RESTRICT,
    action text NOT NULL,
    -- What it was done to: a table's name in the singular, and the row's id.
    subject text NOT NULL,
    subject_id uuid NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    request_id text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_actor_id_idx ON audit_log (actor_id);
CREATE INDEX audit_log_subject_id_idx ON audit_log (subject_id);
