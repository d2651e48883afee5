-- Who watched a video, and who watches it now.

-- name: list_live(video_id, most)
-- Who watches now: sessions that a process holds, and those that report by REST now and then. With how many there are, how
-- many play and how many stall.
SELECT s.id, s.user_id, u.username, s.state, s.last_seq, s.last_sub, s.decision::json AS decision, s.resume_ms,
       s.device, s.created_at,
       count(*) OVER () AS watching,
       count(*) FILTER (WHERE s.state::json ->> 'player_state' = 'p') OVER () AS playing,
       count(*) FILTER (WHERE s.state::json ->> 'player_state' = 'r') OVER () AS stalled
FROM video_sessions AS s JOIN users AS u ON u.id = s.user_id
WHERE s.video_id = :video_id AND s.status = 'active' AND (
    s.owner IS NOT NULL AND s.seen_at > now() - interval '45 seconds'
    OR s.claimed_by = 'rest' AND s.seen_at > now() - interval '30 seconds')
ORDER BY s.id DESC LIMIT :most;

-- name: get_video(video_id, viewer_id, viewer_role)^
-- Nothing for what the viewer may not even know.
SELECT v.id, v.ladder, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM videos AS v JOIN lectures AS l ON l.id = v.lecture_id JOIN courses AS c ON c.id = l.course_id
WHERE v.id = :video_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: sum_figures(video_id, first_day, last_day)
SELECT slot::integer AS slot, sum(value)::bigint AS value
FROM video_figures WHERE video_id = :video_id AND day BETWEEN :first_day AND :last_day
GROUP BY slot;

-- name: count_viewers(video_id, first_day, last_day)$
SELECT count(*) FROM (
    SELECT user_id FROM video_viewers WHERE video_id = :video_id AND day BETWEEN :first_day AND :last_day GROUP BY user_id
) AS viewers;

-- name: count_waiting(video_id, first_day, last_day)$
-- Sessions that did not begin to play, and whose player is still there.
SELECT count(*)
FROM video_sessions AS s JOIN session_figures AS f ON f.session_id = s.id
WHERE s.video_id = :video_id AND s.status = 'active' AND f.sums[2] = 0
  AND (s.created_at AT TIME ZONE 'UTC')::date BETWEEN :first_day AND :last_day;
