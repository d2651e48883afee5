-- Files and what is written about lectures are read by jobs.

-- A material that became ready is read, and what is written about a lecture whenever it changes; both by jobs.
CREATE FUNCTION is_readable_type(content_type text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT content_type IN ('application/pdf', 'text/plain', 'text/markdown')
$$;

CREATE FUNCTION note_readable_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload) VALUES ('file_text', jsonb_build_object('file_id', NEW.id));
    RETURN NULL;
END $$;
CREATE TRIGGER note_readable_file AFTER INSERT ON files FOR EACH ROW
    WHEN (NEW.status = 'ready' AND NEW.purpose = 'material' AND NEW.course_id IS NOT NULL
          AND is_readable_type(NEW.content_type))
    EXECUTE FUNCTION note_readable_file();
CREATE TRIGGER note_file_that_became_readable AFTER UPDATE OF status ON files FOR EACH ROW
    WHEN (NEW.status = 'ready' AND OLD.status <> 'ready' AND NEW.purpose = 'material' AND NEW.course_id IS NOT NULL
          AND is_readable_type(NEW.content_type))
    EXECUTE FUNCTION note_readable_file();

CREATE FUNCTION note_lecture_text() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload) VALUES ('lecture_text', jsonb_build_object('lecture_id', NEW.id));
    RETURN NULL;
END $$;
CREATE TRIGGER note_lecture_text AFTER INSERT ON lectures FOR EACH ROW
    WHEN (NEW.description <> '') EXECUTE FUNCTION note_lecture_text();
CREATE TRIGGER note_changed_lecture_text AFTER UPDATE OF description ON lectures FOR EACH ROW
    WHEN (NEW.description <> OLD.description) EXECUTE FUNCTION note_lecture_text();

-- What is there now is read once.
INSERT INTO jobs (kind, payload)
SELECT 'file_text', jsonb_build_object('file_id', id) FROM files
WHERE status = 'ready' AND purpose = 'material' AND course_id IS NOT NULL AND is_readable_type(content_type);
INSERT INTO jobs (kind, payload)
SELECT 'lecture_text', jsonb_build_object('lecture_id', id) FROM lectures WHERE description <> '';

