-- name: get_lecture(lecture_id, viewer_id, viewer_role)^
SELECT l.id, l.title, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM lectures AS l JOIN courses AS c ON c.id = l.course_id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: insert_video(lecture_id, upload_user_id, title, description, cloudflare_uid)^
INSERT INTO videos (lecture_id, upload_user_id, title, description, cloudflare_uid)
VALUES (:lecture_id, :upload_user_id, :title, :description, :cloudflare_uid)
RETURNING *;

-- name: get_video(video_id, viewer_id, viewer_role)^
SELECT
    v.*,
    coalesce(:viewer_role = 'admin' OR c.creator_id = :viewer_id, false) AS viewer_owns,
    may_watch(:viewer_id, :viewer_role, v.id) AS viewer_may_watch
FROM videos AS v JOIN lectures AS l ON l.id = v.lecture_id JOIN courses AS c ON c.id = l.course_id
WHERE v.id = :video_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: update_video(video_id, title, description, visibility)^
-- What is NULL stays as it is.
UPDATE videos
SET title = coalesce(:title, title), description = coalesce(:description, description),
    visibility = coalesce(:visibility, visibility)
WHERE id = :video_id
RETURNING *;

-- name: delete_video(video_id)!
DELETE FROM videos WHERE id = :video_id;

-- name: claim_check(video_id, pause_s)$
-- At most one question to the host every `pause_s`, whichever process is asked.
UPDATE videos SET checked_at = clock_timestamp()
WHERE id = :video_id AND status IN ('pending_upload', 'processing') AND cloudflare_uid IS NOT NULL
  AND (checked_at IS NULL OR checked_at < clock_timestamp() - make_interval(secs => :pause_s))
RETURNING cloudflare_uid;

-- name: note_status(cloudflare_uid, status, duration_seconds, thumbnail_url, error)^
-- What the host says may come late, twice and in any order: a status never goes back, `ready` least of all.
UPDATE videos
SET status = :status,
    duration_seconds = coalesce(:duration_seconds, duration_seconds),
    thumbnail_url = coalesce(:thumbnail_url, thumbnail_url),
    error = :error
WHERE cloudflare_uid = :cloudflare_uid
  AND array_position(ARRAY['pending_upload', 'processing', 'error', 'ready'], :status)
   >= array_position(ARRAY['pending_upload', 'processing', 'error', 'ready'], status)
RETURNING id, status, ladder IS NULL AS needs_ladder;

-- name: set_ladder(video_id, ladder, segment_s)!
UPDATE videos SET ladder = :ladder, segment_s = :segment_s WHERE id = :video_id;

-- name: claim_removals(count, pause_s)
-- Those that are due, for this process alone until their next try: after `pause_s`, then twice that, up to an hour.
UPDATE removed_videos AS r
SET tries = tries + 1, next_try_at = now() + least(make_interval(secs => :pause_s * 2 ^ least(tries, 30)), interval '1 hour')
WHERE r.cloudflare_uid IN (
    SELECT cloudflare_uid FROM removed_videos WHERE next_try_at <= now()
    ORDER BY next_try_at LIMIT :count FOR UPDATE SKIP LOCKED)
RETURNING r.cloudflare_uid, r.tries;

-- name: forget_removal(cloudflare_uid)!
DELETE FROM removed_videos WHERE cloudflare_uid = :cloudflare_uid;
