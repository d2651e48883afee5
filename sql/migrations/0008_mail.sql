-- Work for later, and the mails' tokens.

-- A job that is due is taken by moving `run_at` ahead by a lease; whoever ends it says which attempt it was.
CREATE TABLE jobs (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    kind text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    attempts integer NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now(),
    error text,
    dead_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX jobs_run_at_idx ON jobs (run_at) WHERE dead_at IS NULL;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- What a link in a mail proves: that its reader reads the mail of `email`. Used ones are deleted.
CREATE TABLE mail_tokens (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose text NOT NULL CONSTRAINT mail_tokens_purpose CHECK (purpose IN ('verify', 'reset')),
    email text NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT mail_tokens_token_hash_key UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mail_tokens_user_id_idx ON mail_tokens (user_id);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON mail_tokens FOR EACH ROW EXECUTE FUNCTION set_updated_at();
