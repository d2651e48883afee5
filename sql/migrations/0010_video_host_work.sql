-- What the video host is told and asked later is work like any other; transcripts; videos that were replaced.

-- Videos that are gone here and must go at the host too, however they went.
DROP TRIGGER note_removed_video ON videos;
DROP FUNCTION note_removed_video();
INSERT INTO jobs (kind, payload) SELECT 'video_removal', jsonb_build_object('uid', cloudflare_uid) FROM removed_videos;
DROP TABLE removed_videos;

CREATE FUNCTION note_removed_video() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload) VALUES ('video_removal', jsonb_build_object('uid', OLD.cloudflare_uid));
    RETURN NULL;
END $$;
CREATE TRIGGER note_removed_video AFTER DELETE ON videos
    FOR EACH ROW WHEN (OLD.cloudflare_uid IS NOT NULL) EXECUTE FUNCTION note_removed_video();
-- One that was replaced keeps its row and figures, and loses its copy at the host.
CREATE TRIGGER note_retired_video AFTER UPDATE OF cloudflare_uid ON videos
    FOR EACH ROW WHEN (OLD.cloudflare_uid IS NOT NULL AND OLD.cloudflare_uid IS DISTINCT FROM NEW.cloudflare_uid)
    EXECUTE FUNCTION note_removed_video();

-- What a lost webhook did not tell.
ALTER TABLE videos
    ADD COLUMN upload_expires_at timestamptz,
    -- Counts the changes of its captions.
    ADD COLUMN captions_version integer NOT NULL DEFAULT 0;
INSERT INTO jobs (kind, payload)
SELECT 'video_status', jsonb_build_object('video_id', id) FROM videos WHERE status IN ('pending_upload', 'processing');

-- A lecture's video: the newest that can be played, else the newest. One without a copy at the host cannot be played.
CREATE OR REPLACE FUNCTION lecture_video_id(lecture uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT id FROM videos WHERE lecture_id = lecture
    ORDER BY (status = 'ready' AND cloudflare_uid IS NOT NULL) DESC, id DESC LIMIT 1
$$;

-- When a viewer's right to a video ends that they have now; NULL: not by itself.
CREATE FUNCTION watch_ends_at(viewer uuid, viewer_role text, video uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT nullif(greatest(
        CASE WHEN viewer_role = 'admin' OR c.creator_id = viewer
               OR c.status = 'published' AND (
                   l.is_preview OR v.visibility = 'public' OR (v.visibility = 'preview' AND viewer IS NOT NULL))
             THEN timestamptz 'infinity' END,
        (SELECT coalesce(e.expires_at, timestamptz 'infinity') FROM enrollments AS e
         WHERE e.user_id = viewer AND e.course_id = c.id AND e.is_active),
        CASE WHEN c.status = 'published' THEN covered_until(viewer, c.id) END
    ), timestamptz 'infinity')
    FROM videos AS v JOIN lectures AS l ON l.id = v.lecture_id JOIN courses AS c ON c.id = l.course_id
    WHERE v.id = video
$$;

-- What is said in a video, cut into pieces of some sentences, for search and for the tutor. `embedding` comes later, and
-- only where a model makes them; its length is the model's.
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE transcript_chunks (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    lecture_id uuid NOT NULL REFERENCES lectures ON DELETE CASCADE,
    lang text NOT NULL,
    from_s double precision NOT NULL,
    to_s double precision NOT NULL,
    text text NOT NULL,
    tsv tsvector NOT NULL GENERATED ALWAYS AS (words_of(text)) STORED,
    embedding vector,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transcript_chunks_range CHECK (from_s >= 0 AND to_s >= from_s)
);
CREATE INDEX transcript_chunks_video_id_idx ON transcript_chunks (video_id, from_s);
CREATE INDEX transcript_chunks_lecture_id_idx ON transcript_chunks (lecture_id);
CREATE INDEX transcript_chunks_tsv_idx ON transcript_chunks USING gin (tsv);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON transcript_chunks FOR EACH ROW EXECUTE FUNCTION set_updated_at();
-- What those videos say that are ready now is asked for once.
INSERT INTO jobs (kind, payload)
SELECT 'video_text', jsonb_build_object('video_id', id) FROM videos WHERE status = 'ready' AND cloudflare_uid IS NOT NULL;
