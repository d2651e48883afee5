-- The length of a course may be more seconds than an integer holds: from some two thousand lectures of the longest kind on
-- nobody could read such a course any more, nor any list or answer in which it was among others.
DROP VIEW shown_courses;
CREATE VIEW shown_courses AS
SELECT
    c.id, c.creator_id, c.title, c.description, c.thumbnail_url, c.price, c.currency, c.is_free, c.status,
    c.created_at, c.updated_at,
    n.lecture_count,
    n.active_count - (
        SELECT count(*) FROM enrollments AS e WHERE e.course_id = c.id AND e.is_active AND e.expires_at <= now()
    )::integer AS enrolled_count,
    round(n.duration_ms / 1000.0)::bigint AS duration
FROM courses AS c JOIN course_counts AS n ON n.course_id = c.id;
