-- name: list_candidates(viewer_id, question, peers, most)
-- Published courses with lectures that the viewer neither has nor gives, with what speaks for each: `asked`, how well its
-- title and description fit the question's words; `alike`, how well they fit the titles of the viewer's own courses;
-- `together`, the share of learners of a course of the viewer's (of the newest `peers` of it, two at least) who have it
-- too; `because`, that course. Courses of the viewer's count the more, the further they got.
WITH mine AS MATERIALIZED (
    SELECT c.id, c.title, c.description, 0.5 + coalesce(p.percent, 0) / 200 AS weight, coalesce(p.percent, 0) AS percent
    FROM enrollments AS e JOIN courses AS c ON c.id = e.course_id
    CROSS JOIN LATERAL course_progress(:viewer_id, e.course_id) AS p
    WHERE e.user_id = :viewer_id
    ORDER BY e.enrolled_at DESC LIMIT 20
), wanted AS MATERIALIZED (
    SELECT
        (SELECT string_agg('''' || lexeme || '''', ' | ')::tsquery
         FROM unnest(to_tsvector('english', folded(:question))) WHERE lexeme !~ '[''\\]') AS asked,
        (SELECT string_agg('''' || lexeme || '''', ' | ')::tsquery
         FROM mine, unnest(to_tsvector('english', folded(mine.title))) WHERE lexeme !~ '[''\\]') AS alike
), together AS MATERIALIZED (
    SELECT DISTINCT ON (shared.course_id) shared.course_id, shared.share, mine.title AS because
    FROM mine CROSS JOIN LATERAL (
        SELECT o.course_id, mine.weight * count(*) / (max(p.total) + 3) AS share
        FROM (
            SELECT newest.user_id, count(*) OVER () AS total FROM (
                SELECT e.user_id FROM enrollments AS e
                WHERE e.course_id = mine.id AND e.user_id <> :viewer_id AND e.is_active
                ORDER BY e.enrolled_at DESC LIMIT :peers
            ) AS newest
        ) AS p JOIN enrollments AS o ON o.user_id = p.user_id AND o.course_id <> mine.id AND o.is_active
        GROUP BY o.course_id HAVING count(*) >= 2
    ) AS shared
    ORDER BY shared.course_id, shared.share DESC, mine.id
)
SELECT
    c.id, c.title, c.description, n.active_count,
    coalesce(ts_rank(c.words, w.asked), 0)::float8 AS asked,
    coalesce(ts_rank(c.words, w.alike), 0)::float8 AS alike,
    coalesce(t.share, 0)::float8 AS together,
    t.because
FROM courses AS c
JOIN course_counts AS n ON n.course_id = c.id
CROSS JOIN wanted AS w
LEFT JOIN together AS t ON t.course_id = c.id
WHERE c.status = 'published' AND n.lecture_count > 0 AND c.creator_id <> :viewer_id
  AND NOT EXISTS (SELECT 1 FROM enrollments AS e
                  WHERE e.user_id = :viewer_id AND e.course_id = c.id AND e.is_active
                    AND (e.expires_at IS NULL OR e.expires_at > now()))
ORDER BY coalesce(ts_rank(c.words, w.asked), 0) + coalesce(ts_rank(c.words, w.alike), 0) + coalesce(t.share, 0) DESC,
    n.active_count DESC, c.id
LIMIT :most;

-- name: list_taken(viewer_id)
-- What the viewer has or had, and how far they got, from 0 to 100.
SELECT c.title, c.description, coalesce(p.percent, 0) AS percent
FROM enrollments AS e JOIN courses AS c ON c.id = e.course_id
CROSS JOIN LATERAL course_progress(:viewer_id, e.course_id) AS p
WHERE e.user_id = :viewer_id
ORDER BY e.enrolled_at DESC LIMIT 20;
