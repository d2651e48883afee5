-- Who reads a forum page by page sees it as it was at the first page: also which topics were pinned then, or one that is
-- pinned meanwhile jumps over the reader's place and is never seen.

-- When a topic was pinned, of the last day and before that only whether.
ALTER TABLE forum_topics ADD COLUMN pinned_during tstzmultirange NOT NULL DEFAULT '{}';
ALTER TABLE forum_topics DISABLE TRIGGER set_updated_at;
UPDATE forum_topics SET pinned_during = '{(,)}' WHERE is_pinned;
ALTER TABLE forum_topics ENABLE TRIGGER set_updated_at;
-- Those few that can have been pinned or unpinned meanwhile.
CREATE INDEX forum_topics_pins_idx ON forum_topics (course_id) WHERE pinned_during <> '{}';

CREATE FUNCTION note_pin() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    from_now CONSTANT tstzmultirange := tstzmultirange(tstzrange(clock_timestamp(), NULL));
    of_a_day CONSTANT tstzmultirange := tstzmultirange(tstzrange(now() - interval '1 day', NULL));
BEGIN
    NEW.pinned_during := CASE WHEN NEW.is_pinned THEN OLD.pinned_during + from_now ELSE OLD.pinned_during - from_now END;
    NEW.pinned_during := NEW.pinned_during * of_a_day;
    RETURN NEW;
END $$;
CREATE TRIGGER note_pin BEFORE UPDATE ON forum_topics
    FOR EACH ROW WHEN (OLD.is_pinned <> NEW.is_pinned) EXECUTE FUNCTION note_pin();

-- Whether a topic was pinned at that time; NULL is now.
CREATE FUNCTION pinned_at(topic forum_topics, as_of timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN as_of IS NULL THEN topic.is_pinned ELSE topic.pinned_during @> as_of END
$$;
