-- name: find_pieces(viewer_id, viewer_role, course_id, lecture_id, question, embedding, model, most)
-- Of what the viewer may be told: the pieces that share most with the question's words, those whose embeddings are nearest
-- to its own (NULL: none is asked for), and how much of either. `words` is Okapi's BM25, with the rarity of words within
-- what is searched, as a share of what a piece can have that is full of them all; `cosine` is NULL for pieces that `model`
-- has not embedded, or by zeros, which are near nothing. Of a lecture or two all pieces are given: what stands beside a
-- find may be what was meant.
WITH scope AS MATERIALIZED (
    SELECT * FROM readable_sources(:viewer_id, :viewer_role, :course_id, :lecture_id)
), asked AS MATERIALIZED (
    SELECT lexeme AS word, ('''' || lexeme || '''')::tsquery AS query
    FROM unnest(to_tsvector('english', folded(:question))) WHERE lexeme !~ '[''\\]' LIMIT 64
), hits AS MATERIALIZED (
    SELECT c.id, a.word FROM asked AS a JOIN transcript_chunks AS c ON c.tsv @@ a.query
    WHERE c.video_id IN (SELECT source_id FROM scope)
    UNION ALL
    SELECT t.id, a.word FROM asked AS a JOIN text_pieces AS t ON t.tsv @@ a.query
    WHERE t.source_id IN (SELECT source_id FROM scope)
), total AS MATERIALIZED (
    SELECT (SELECT count(*) FROM transcript_chunks WHERE video_id IN (SELECT source_id FROM scope))
         + (SELECT count(*) FROM text_pieces WHERE source_id IN (SELECT source_id FROM scope)) AS pieces
), rarity AS MATERIALIZED (
    SELECT word, ln(1 + (t.pieces - h.count + 0.5) / (h.count + 0.5)) AS idf
    FROM (SELECT word, count(*) FROM hits GROUP BY word) AS h, total AS t
), best AS MATERIALIZED (
    SELECT 2.2 * sum(coalesce(r.idf, ln(2 + 2 * t.pieces))) AS bm25
    FROM asked LEFT JOIN rarity AS r USING (word) CROSS JOIN total AS t
), worded AS (
    SELECT h.id FROM hits AS h JOIN rarity AS r USING (word)
    GROUP BY h.id ORDER BY sum(r.idf) DESC, h.id LIMIT :most
), near AS (
    SELECT id FROM (
        SELECT id, embedding FROM transcript_chunks
        WHERE embedded_by = :model::text AND video_id IN (SELECT source_id FROM scope)
        UNION ALL
        SELECT id, embedding FROM text_pieces
        WHERE embedded_by = :model::text AND source_id IN (SELECT source_id FROM scope)
    ) AS p
    WHERE vector_dims(embedding) = vector_dims(:embedding::text::vector)
    ORDER BY CASE WHEN vector_dims(embedding) = vector_dims(:embedding::text::vector)
                  THEN embedding <=> :embedding::text::vector END, id
    LIMIT :most
), chosen AS MATERIALIZED (
    SELECT id FROM worded
    UNION
    SELECT id FROM near
    UNION
    SELECT id FROM transcript_chunks
    WHERE (SELECT pieces <= 2 * :most::integer FROM total) AND video_id IN (SELECT source_id FROM scope)
), found AS MATERIALIZED (
    SELECT c.id, c.video_id AS source_id, c.from_s, c.to_s, NULL::integer AS page, NULL::integer AS place, c.text, c.tsv,
        CASE WHEN c.embedded_by = :model THEN c.embedding END AS embedding
    FROM transcript_chunks AS c WHERE c.id IN (SELECT id FROM chosen)
    UNION ALL
    SELECT t.id, t.source_id, NULL, NULL, t.page, t.place, t.text, t.tsv,
        CASE WHEN t.embedded_by = :model THEN t.embedding END
    FROM text_pieces AS t WHERE t.id IN (SELECT id FROM chosen)
)
SELECT
    f.id, f.source_id, s.course_id, s.lecture_id, s.file_id, s.title, f.from_s, f.to_s, f.page, f.place, f.text,
    coalesce((
        SELECT sum(r.idf * 2.2 * cardinality(w.positions)
                   / (cardinality(w.positions) + 1.2 * (0.25 + 0.75 * length(f.text) / 450.0)))
        FROM unnest(f.tsv) AS w JOIN rarity AS r ON r.word = w.lexeme) / (SELECT bm25 FROM best), 0)::float8 AS words,
    CASE WHEN vector_dims(f.embedding) = vector_dims(:embedding::text::vector)
         THEN nullif(1 - (f.embedding <=> :embedding::text::vector), 'NaN') END AS cosine
FROM found AS f JOIN scope AS s USING (source_id);

-- name: list_around(viewer_id, viewer_role, lecture_id, from_s, at_s, to_s)
-- What is said in a lecture's video about a moment, if the viewer may watch it; after a long silence what was said last.
SELECT c.id, c.video_id AS source_id, s.course_id, s.lecture_id, NULL::uuid AS file_id, s.title, c.from_s, c.to_s,
    NULL::integer AS page, NULL::integer AS place, c.text
FROM readable_sources(:viewer_id, :viewer_role, NULL, :lecture_id) AS s
JOIN transcript_chunks AS c ON c.video_id = s.source_id
WHERE c.from_s <= :to_s AND c.to_s >= least(:from_s, (
    SELECT max(said.to_s) FROM transcript_chunks AS said WHERE said.video_id = s.source_id AND said.from_s <= :at_s))
ORDER BY c.from_s LIMIT 20;

-- name: list_neighbours(ids)
-- The pieces before and after each of these, within their sources.
SELECT given.id AS of_id, n.id, n.from_s, n.to_s, NULL::integer AS page, NULL::integer AS place, n.text
FROM transcript_chunks AS given CROSS JOIN LATERAL (
    (SELECT c.id, c.from_s, c.to_s, c.text FROM transcript_chunks AS c
     WHERE c.video_id = given.video_id AND (c.from_s, c.id) < (given.from_s, given.id)
     ORDER BY c.from_s DESC, c.id DESC LIMIT 1)
    UNION ALL
    (SELECT c.id, c.from_s, c.to_s, c.text FROM transcript_chunks AS c
     WHERE c.video_id = given.video_id AND (c.from_s, c.id) > (given.from_s, given.id)
     ORDER BY c.from_s, c.id LIMIT 1)
) AS n
WHERE given.id = ANY(:ids::uuid[])
UNION ALL
SELECT given.id, n.id, NULL, NULL, n.page, n.place, n.text
FROM text_pieces AS given JOIN text_pieces AS n ON n.source_id = given.source_id AND abs(n.place - given.place) = 1
WHERE given.id = ANY(:ids::uuid[]);

-- name: get_watched(viewer_id, viewer_role, lecture_id)^
-- The course of a lecture, and its title if the viewer may watch it.
SELECT l.course_id, (
    SELECT s.title FROM readable_sources(:viewer_id, :viewer_role, NULL, l.id) AS s WHERE s.file_id IS NULL LIMIT 1
) AS title
FROM lectures AS l WHERE l.id = :lecture_id;
