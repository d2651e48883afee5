-- Nothing was changed before it was made, nor before it was changed last: a transaction that began earlier may write later,
-- and what forums are sorted by is told by the clock.
CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := greatest(now(), OLD.updated_at);
    RETURN NEW;
END $$;
ALTER TABLE forum_topics ALTER COLUMN updated_at SET DEFAULT clock_timestamp();
ALTER TABLE forum_posts ALTER COLUMN updated_at SET DEFAULT clock_timestamp();
