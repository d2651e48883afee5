-- What pages that are open are told.

-- name: find_watched(topic_id, course_id, viewer_id, viewer_role)^
-- The course of a topic, or the course itself; nothing for what the viewer may not even know.
SELECT c.id AS course_id, entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM courses AS c
WHERE c.id = coalesce((SELECT t.course_id FROM forum_topics AS t WHERE t.id = :topic_id), :course_id)
  AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: list_entitled(user_ids, roles, course_ids)
-- The places, from 1, of those who are entitled to the course at their place.
SELECT page.place::integer AS place
FROM unnest(:user_ids::uuid[], :roles::text[], :course_ids::uuid[]) WITH ORDINALITY
    AS page (user_id, role, course_id, place)
WHERE entitled(page.user_id, page.role, page.course_id);

-- name: get_settled_video(video_id)^
SELECT id, lecture_id, upload_user_id, status, error FROM videos WHERE id = :video_id AND status IN ('ready', 'error');

-- name: list_moved_sessions(user_ids, own_session_ids, within_s)
-- Of each page's user the sessions that are not the page's own and reported lately.
SELECT page.place::integer AS place, s.id, s.video_id, s.lecture_id, l.course_id, s.device, s.seen_at, s.last_seq,
    s.last_sub::text AS last_sub, coalesce((s.state::json ->> 'position_ms')::double precision, s.resume_ms) AS position_ms,
    s.state::json ->> 'player_state' AS sta
FROM unnest(:user_ids::uuid[], :own_session_ids::uuid[]) WITH ORDINALITY AS page (user_id, own_id, place)
JOIN video_sessions AS s ON s.user_id = page.user_id AND s.id IS DISTINCT FROM page.own_id
JOIN lectures AS l ON l.id = s.lecture_id
WHERE s.status = 'active' AND s.last_seq + s.last_sub > 0 AND s.seen_at > now() - make_interval(secs => :within_s);

-- name: list_changed_enrollments(user_ids, within_s)
SELECT page.place::integer AS place, e.course_id, e.updated_at,
    e.is_active AND (e.expires_at IS NULL OR e.expires_at > now()) AS is_active
FROM unnest(:user_ids::uuid[]) WITH ORDINALITY AS page (user_id, place)
JOIN enrollments AS e ON e.user_id = page.user_id
WHERE e.updated_at > now() - make_interval(secs => :within_s);
