-- What the tutor may read beside transcripts: course files and what is written about lectures, in pieces of some
-- sentences; and the set form of who may watch what.

CREATE TABLE text_pieces (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    course_id uuid NOT NULL REFERENCES courses ON DELETE CASCADE,
    lecture_id uuid REFERENCES lectures ON DELETE CASCADE,
    file_id uuid REFERENCES files ON DELETE CASCADE,
    source_id uuid NOT NULL GENERATED ALWAYS AS (coalesce(file_id, lecture_id)) STORED,
    -- Of a file that has pages, from 1.
    page integer CONSTRAINT text_pieces_page CHECK (page >= 1),
    -- Where it stands in its source, from 0.
    place integer NOT NULL,
    text text NOT NULL,
    tsv tsvector NOT NULL GENERATED ALWAYS AS (words_of(text)) STORED,
    embedding vector,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT text_pieces_source CHECK (num_nonnulls(lecture_id, file_id) = 1)
);
CREATE INDEX text_pieces_source_id_idx ON text_pieces (source_id, place);
CREATE INDEX text_pieces_course_id_idx ON text_pieces (course_id);
CREATE INDEX text_pieces_lecture_id_idx ON text_pieces (lecture_id);
CREATE INDEX text_pieces_file_id_idx ON text_pieces (file_id);
CREATE INDEX text_pieces_tsv_idx ON text_pieces USING gin (tsv);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON text_pieces FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- Everything whose text a viewer may be told: videos by the rule of `may_watch`, files by `may_read_file`, what is
-- written about a lecture where the lecture may be watched (once it has a video). With a course or a lecture, what belongs
-- to it; a lecture's files are those of its course too that belong to no other lecture. Asked for many at once: `entitled`
-- is asked once a course, and not at all where nothing but publicity can help.
CREATE FUNCTION readable_sources(viewer uuid, viewer_role text, wanted_course uuid, wanted_lecture uuid)
RETURNS TABLE (source_id uuid, course_id uuid, lecture_id uuid, file_id uuid, title text)
LANGUAGE sql STABLE AS $$
    WITH given AS MATERIALIZED (
        SELECT c.id, c.status, coalesce(entitled(viewer, viewer_role, c.id), false) AS is_entitled
        FROM courses AS c
        WHERE (wanted_course IS NULL OR c.id = wanted_course)
          AND (wanted_lecture IS NULL OR c.id = (SELECT l.course_id FROM lectures AS l WHERE l.id = wanted_lecture))
    ), watchable AS MATERIALIZED (
        SELECT l.id, l.title, g.id AS course_id, v.id AS video_id
        FROM given AS g
        JOIN lectures AS l ON l.course_id = g.id
        LEFT JOIN LATERAL (
            SELECT video.id, video.visibility FROM videos AS video WHERE video.lecture_id = l.id
            ORDER BY (video.status = 'ready' AND video.cloudflare_uid IS NOT NULL) DESC, video.id DESC LIMIT 1
        ) AS v ON true
        WHERE (wanted_lecture IS NULL OR l.id = wanted_lecture)
          AND (g.is_entitled OR g.status = 'published' AND (
                  l.is_preview OR v.visibility = 'public' OR (v.visibility = 'preview' AND viewer IS NOT NULL)))
    )
    SELECT video_id, course_id, id, NULL::uuid, title FROM watchable WHERE video_id IS NOT NULL
    UNION ALL
    SELECT id, course_id, id, NULL, title FROM watchable
    UNION ALL
    SELECT f.id, f.course_id, f.lecture_id, f.id, f.filename
    FROM given AS g JOIN files AS f ON f.course_id = g.id
    WHERE (g.is_entitled OR g.status = 'published') AND f.purpose = 'material' AND f.status = 'ready'
      AND (wanted_lecture IS NULL OR f.lecture_id IS NULL OR f.lecture_id = wanted_lecture)
      AND may_read_file(viewer, viewer_role, f)
$$;
