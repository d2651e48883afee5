-- name: get_lecture(lecture_id, viewer_id, viewer_role)^
-- A preview may be watched, and so recorded, by everybody who is signed in. Without `end_ms` nothing is cut. It is not
-- deleted before the transaction ends.
SELECT
    l.id,
    l.course_id,
    l.end_ms,
    entitled(:viewer_id, :viewer_role, c.id) OR l.is_preview
        OR coalesce(may_watch(:viewer_id, :viewer_role, lecture_video_id(l.id)), false) AS viewer_entitled
FROM lectures AS l JOIN courses AS c ON c.id = l.course_id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR KEY SHARE OF l;

-- name: lock_progress(user_id, lecture_id)$
-- So that a write without a position keeps the one that another device writes at the same time. Nothing where there is no
-- row, which locks nothing.
SELECT true FROM progress WHERE user_id = :user_id AND lecture_id = :lecture_id FOR UPDATE;

-- name: insert_progress(user_id, lecture_id)!
-- A row to be locked, unless there is one by now; waits for who is just making it.
INSERT INTO progress (user_id, lecture_id) VALUES (:user_id, :lecture_id) ON CONFLICT DO NOTHING;

-- name: record_progress(user_id, lecture_id, ranges, position_ms, completed, share)^
SELECT * FROM record_progress(
    ARRAY[:user_id::uuid], ARRAY[:lecture_id::uuid], ARRAY[:ranges::int4multirange], ARRAY[:position_ms::integer],
    ARRAY[:completed::boolean], :share);

-- name: user_exists(user_id)$
SELECT EXISTS (SELECT 1 FROM users WHERE id = :user_id AND erased_at IS NULL);

-- name: list_user_progress(user_id, before_at, before_id, page_size)
SELECT * FROM progress
WHERE user_id = :user_id
  AND (:before_at::timestamptz IS NULL OR (last_watched_at, lecture_id) < (:before_at, :before_id::uuid))
ORDER BY last_watched_at DESC, lecture_id DESC LIMIT :page_size;

-- name: get_course(course_id, viewer_id, viewer_role)^
SELECT c.*, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: lock_subscriptions(user_id)!
-- Before it is read what they cover: none of them changes while somebody is enrolled by it.
SELECT 1 FROM subscriptions WHERE user_id = :user_id AND status <> 'canceled' FOR SHARE;

-- name: lock_course(course_id, viewer_id, viewer_role, user_id)^
-- As get_course, and nobody archives or deletes it before the transaction ends; with what would enrol `user_id`. What was
-- bought is not forgotten, wherever the course went since.
SELECT c.id, c.creator_id, c.is_free, c.status, paid.transaction_id, covered_until(:user_id, c.id) AS covered_until
FROM courses AS c CROSS JOIN LATERAL (SELECT purchase_of(:user_id, c.id) AS transaction_id) AS paid
WHERE c.id = :course_id
  AND (may_see(:viewer_id, :viewer_role, c.id, c.status) OR paid.transaction_id IS NOT NULL)
FOR SHARE OF c;

-- name: get_course_progress(user_id, course_id)^
SELECT
    :course_id::uuid AS course_id, totals.*, resume.lecture_id AS resume_lecture_id,
    least(resume.position_ms, lecture_end_ms(resume.lecture_id)) AS resume_ms
FROM course_progress(:user_id, :course_id) AS totals
LEFT JOIN resume_point(:user_id, :course_id) AS resume ON true;

-- name: may_ask_about(user_id, course_id, viewer_role)$
-- Owners know their learners, administrators everybody.
SELECT EXISTS (
    SELECT 1 FROM users AS u WHERE u.id = :user_id AND u.erased_at IS NULL AND (
        :viewer_role = 'admin'
        OR EXISTS (SELECT 1 FROM enrollments AS e WHERE e.user_id = u.id AND e.course_id = :course_id)
        OR EXISTS (
            SELECT 1 FROM progress AS p JOIN lectures AS l ON l.id = p.lecture_id
            WHERE p.user_id = u.id AND l.course_id = :course_id)));

-- name: list_course_progress(user_id, course_id)
SELECT p.* FROM progress AS p JOIN lectures AS l ON l.id = p.lecture_id
WHERE p.user_id = :user_id AND l.course_id = :course_id
ORDER BY l.sequence_order;

-- name: list_learners(course_id, before_at, before_id, page_size)
-- The page first: how far somebody is takes a look at every lecture, and a course may have very many learners.
SELECT page.user_id, u.username, page.enrolled_at, totals.*
FROM (
    SELECT e.user_id, e.course_id, e.enrolled_at FROM enrollments AS e
    WHERE e.course_id = :course_id AND e.is_active
      AND (:before_at::timestamptz IS NULL OR (e.enrolled_at, e.user_id) < (:before_at, :before_id::uuid))
    ORDER BY e.enrolled_at DESC, e.user_id DESC LIMIT :page_size
) AS page
JOIN users AS u ON u.id = page.user_id
CROSS JOIN LATERAL course_progress(page.user_id, page.course_id) AS totals
ORDER BY page.enrolled_at DESC, page.user_id DESC;

-- name: list_resume_points(user_id, user_role, before_at, before_id, page_size)
-- One place per course that was begun and is not complete, and may still be watched.
SELECT
    c.id AS course_id, c.title AS course_title, c.thumbnail_url, l.id AS lecture_id, l.title AS lecture_title,
    least(resume.position_ms, l.end_ms) AS position_ms, l.end_ms, resume.last_watched_at,
    (course_progress(:user_id, c.id)).percent AS percent
FROM (
    SELECT DISTINCT l.course_id FROM progress AS p JOIN lectures AS l ON l.id = p.lecture_id WHERE p.user_id = :user_id
) AS begun
JOIN courses AS c ON c.id = begun.course_id
CROSS JOIN LATERAL resume_point(:user_id, c.id) AS resume
JOIN lectures AS l ON l.id = resume.lecture_id
WHERE (entitled(:user_id, :user_role, c.id) OR (l.is_preview AND c.status = 'published'))
  AND (:before_at::timestamptz IS NULL OR (resume.last_watched_at, c.id) < (:before_at, :before_id::uuid))
ORDER BY resume.last_watched_at DESC, c.id DESC LIMIT :page_size;

-- name: upsert_enrollment(user_id, course_id, source, transaction_id, expires_at)$
-- The course's id when the enrolment is new, alive again, or no longer ends; nothing when it was alive already.
INSERT INTO enrollments AS kept (user_id, course_id, source, transaction_id, expires_at)
VALUES (:user_id, :course_id, :source, :transaction_id, :expires_at)
ON CONFLICT (user_id, course_id) DO UPDATE
SET is_active = true, expires_at = EXCLUDED.expires_at, source = EXCLUDED.source,
    transaction_id = EXCLUDED.transaction_id,
    enrolled_at = CASE WHEN kept.is_active AND kept.expires_at > now() THEN kept.enrolled_at ELSE now() END
WHERE NOT kept.is_active OR kept.expires_at <= now() OR (kept.expires_at IS NOT NULL AND EXCLUDED.expires_at IS NULL)
RETURNING kept.course_id;

-- name: get_enrollment(user_id, course_id)^
SELECT * FROM shown_enrollments WHERE user_id = :user_id AND course_id = :course_id;

-- name: list_user_enrollments(user_id, before_at, before_id, page_size)
SELECT * FROM shown_enrollments
WHERE user_id = :user_id AND NOT was_left
  AND (:before_at::timestamptz IS NULL OR (enrolled_at, course_id) < (:before_at, :before_id::uuid))
ORDER BY enrolled_at DESC, course_id DESC LIMIT :page_size;

-- name: list_course_enrollments(course_id, before_at, before_id, page_size)
SELECT * FROM shown_enrollments
WHERE course_id = :course_id AND NOT was_left
  AND (:before_at::timestamptz IS NULL OR (enrolled_at, user_id) < (:before_at, :before_id::uuid))
ORDER BY enrolled_at DESC, user_id DESC LIMIT :page_size;

-- name: end_enrollment(user_id, course_id)$
-- The row stays, so that what was bought can be taken up again.
UPDATE enrollments SET is_active = false WHERE user_id = :user_id AND course_id = :course_id AND is_active
RETURNING course_id;
