-- The first answer to a request that must not happen twice, for as long as its key is remembered.
-- Without a status the first request is still running; one that died leaves the key free after `running_until`.
CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    key text NOT NULL CONSTRAINT idempotency_keys_key_length CHECK (length(key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL,
    running_until timestamptz,
    status smallint,
    headers jsonb,
    body bytea,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_state CHECK ((status IS NULL) = (running_until IS NOT NULL)),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION set_updated_at();
