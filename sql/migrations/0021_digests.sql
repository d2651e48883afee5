-- Who wants a mail once a day about what is unread in the forums: nobody who has no row.
CREATE TABLE forum_digests (
    user_id uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- When the last one was asked for, and up to when posts were told of.
    asked_at timestamptz NOT NULL DEFAULT now(),
    told_until timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX forum_digests_asked_at_idx ON forum_digests (asked_at);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON forum_digests FOR EACH ROW EXECUTE FUNCTION set_updated_at();
