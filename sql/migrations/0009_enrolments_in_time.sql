-- Whether an enrolment is active is judged when one looks: one whose time is over is listed, and is not. `was_left` are
-- those that somebody left or lost.

CREATE OR REPLACE VIEW shown_enrollments AS
SELECT
    e.user_id, e.course_id, e.source, e.enrolled_at, e.expires_at,
    e.is_active AND (e.expires_at IS NULL OR e.expires_at > now()) AS is_active,
    e.created_at, e.updated_at, e.transaction_id, (course_progress(e.user_id, e.course_id)).percent AS progress,
    NOT e.is_active AS was_left
FROM enrollments AS e;
