-- name: get_readable_file(file_id)^
SELECT id, course_id, visibility, content_type, size_bytes FROM files
WHERE id = :file_id AND status = 'ready' AND purpose = 'material' AND course_id IS NOT NULL
  AND is_readable_type(content_type);

-- name: lock_file(file_id)$
SELECT id FROM files WHERE id = :file_id FOR NO KEY UPDATE;

-- name: lock_lecture(lecture_id)^
-- Two jobs for one lecture come one after the other, and both write what stands there now.
SELECT id, course_id, description FROM lectures WHERE id = :lecture_id FOR NO KEY UPDATE;

-- name: delete_pieces(source_id)!
DELETE FROM text_pieces WHERE source_id = :source_id;

-- name: insert_pieces(course_id, file_id, lecture_id, first, pages, texts)!
-- From the place `first` on.
INSERT INTO text_pieces (course_id, file_id, lecture_id, page, place, text)
SELECT :course_id, :file_id, :lecture_id, piece.page, :first::integer + piece.place - 1, piece.text
FROM unnest(:pages::integer[], :texts::text[]) WITH ORDINALITY AS piece (page, text, place);

-- name: list_pieces_to_embed(source_id, model, count)
-- With the title of what they belong to.
SELECT t.id, coalesce(l.title, regexp_replace(f.filename, '\.[^.]*$', '')) || '. ' || t.text AS text
FROM text_pieces AS t LEFT JOIN lectures AS l ON l.id = t.lecture_id LEFT JOIN files AS f ON f.id = t.file_id
WHERE t.source_id = :source_id AND t.embedded_by IS DISTINCT FROM :model ORDER BY t.place LIMIT :count;

-- name: set_embeddings(ids, embeddings, model)!
UPDATE text_pieces AS t SET embedding = given.embedding::vector, embedded_by = :model
FROM unnest(:ids::uuid[], :embeddings::text[]) AS given (id, embedding) WHERE t.id = given.id;

-- name: lock_embeddings()!
-- Processes that start at once take their turns. In a statement of its own: the next one sees what the other asked for.
SELECT pg_advisory_xact_lock(hashtextextended('embeddings', 0));

-- name: ask_for_embeddings(model)!
-- Of what this model has not embedded, because it was kept while there was none or another: a job for each source that
-- has none. One that is dead begins anew: the model that refused may have been another, or asked with a wrong key. Not by
-- IS DISTINCT FROM, which no index helps.
WITH again AS (
    UPDATE jobs SET attempts = 0, run_at = now(), dead_at = NULL
    WHERE dead_at IS NOT NULL AND kind IN ('transcript_embedding', 'text_embedding')
)
INSERT INTO jobs (kind, payload)
SELECT DISTINCT 'transcript_embedding', jsonb_build_object('video_id', c.video_id)
FROM transcript_chunks AS c
WHERE (c.embedded_by IS NULL OR c.embedded_by < :model OR c.embedded_by > :model) AND NOT EXISTS (
    SELECT 1 FROM jobs AS j
    WHERE j.kind = 'transcript_embedding' AND j.payload ->> 'video_id' = c.video_id::text)
UNION ALL
SELECT DISTINCT 'text_embedding', jsonb_build_object('source_id', t.source_id)
FROM text_pieces AS t
WHERE (t.embedded_by IS NULL OR t.embedded_by < :model OR t.embedded_by > :model) AND NOT EXISTS (
    SELECT 1 FROM jobs AS j
    WHERE j.kind = 'text_embedding' AND j.payload ->> 'source_id' = t.source_id::text);
