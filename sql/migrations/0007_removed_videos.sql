-- Videos that are gone here and must go at the video host too, however they went: by themselves or with their lecture or
-- course. A row stays until the host has done it.

CREATE TABLE removed_videos (
    cloudflare_uid text PRIMARY KEY,
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX removed_videos_next_try_at_idx ON removed_videos (next_try_at);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON removed_videos FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE FUNCTION note_removed_video() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO removed_videos (cloudflare_uid) VALUES (OLD.cloudflare_uid) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER note_removed_video AFTER DELETE ON videos
    FOR EACH ROW WHEN (OLD.cloudflare_uid IS NOT NULL) EXECUTE FUNCTION note_removed_video();
