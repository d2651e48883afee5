-- How far Stripe's own list of events was looked through for those that nobody told us: one row. By Stripe's clock, in
-- seconds; the list is walked from its newest end, `after` the event that was looked at last.
CREATE TABLE event_walk (
    is_one boolean PRIMARY KEY DEFAULT true CONSTRAINT event_walk_is_one CHECK (is_one),
    -- Whatever happened before that is known.
    since bigint,
    -- While one walk is under way: what is known at its end.
    reached bigint,
    after text,
    asked_at timestamptz NOT NULL DEFAULT '-infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON event_walk FOR EACH ROW EXECUTE FUNCTION set_updated_at();
INSERT INTO event_walk DEFAULT VALUES;
