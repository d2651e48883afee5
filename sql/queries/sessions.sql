-- Video sessions: claims, checkpoints, the reaper; processes.

-- name: claim_session(session_id, owner, claimed_by)^
-- The fence: whoever raised `epoch` last may write. Nothing for an ended or unknown session.
UPDATE video_sessions
SET epoch = epoch + 1, owner = :owner, claimed_by = :claimed_by, status = 'active', seen_at = now()
WHERE id = :session_id AND status <> 'ended'
RETURNING id, video_id, user_id, lecture_id, epoch, state, last_seq, last_sub, duplicates, ladder, viewport, save_data,
          resume_ms;

-- name: claim_orphans(owner, alive_s, suspend_after_s, end_after_s, strays, most)
-- Sessions whose owner is not alive, for their streams may hold what no checkpoint has; the caller's own strays; and
-- those that nobody owns nor has seen for long, to be suspended or ended as `retire_as` says.
UPDATE video_sessions AS s
SET epoch = epoch + 1, owner = :owner, claimed_by = 'reaper'
WHERE id IN (
    SELECT s.id FROM video_sessions AS s
    WHERE s.status <> 'ended' AND (
        s.owner IS NULL AND s.status = 'active'
            AND s.seen_at < now() - make_interval(secs => least(:suspend_after_s::float8, :end_after_s::float8))
        OR s.owner IS NULL AND s.seen_at < now() - make_interval(secs => :end_after_s)
        OR s.owner = :owner AND s.id = ANY (:strays::uuid[])
        OR s.owner <> :owner AND NOT EXISTS (
            SELECT 1 FROM processes AS p
            WHERE p.id = s.owner AND p.seen_at > now() - make_interval(secs => :alive_s)))
    ORDER BY s.id LIMIT :most
    FOR UPDATE SKIP LOCKED)
RETURNING id, video_id, user_id, lecture_id, epoch, state, last_seq, last_sub, duplicates, ladder, viewport, save_data,
          resume_ms,
          CASE WHEN seen_at < now() - make_interval(secs => :end_after_s) THEN 'ended'
               WHEN seen_at < now() - make_interval(secs => :suspend_after_s) THEN 'suspended' END AS retire_as;

-- name: save_checkpoints(owner, ids, epochs, states, seqs, subs, duplicates, decisions, ranges, positions, seen, released, statuses, complete_share)
-- Every changed session of a process at once, and the progress that those which passed the fence made. Sent again after
-- an unknown outcome it changes nothing: progress is folded only where the row saw its cursor move.
WITH given AS (
    SELECT * FROM unnest(
        :ids::uuid[], :epochs::bigint[], :states::text[], :seqs::bigint[], :subs::numeric[], :duplicates::bigint[],
        :decisions::text[], :ranges::text[], :positions::integer[], :seen::boolean[], :released::boolean[],
        :statuses::text[]
    ) AS g (id, epoch, state, seq, sub, duplicates, decision, ranges, position_ms, seen, released, status)
), saved AS (
    UPDATE video_sessions AS s
    SET state = g.state::jsonb, last_seq = g.seq, last_sub = g.sub, duplicates = g.duplicates,
        decision = g.decision::jsonb,
        owner = CASE WHEN g.released THEN NULL ELSE :owner::uuid END,
        status = coalesce(g.status, s.status),
        ended_at = CASE WHEN g.status = 'ended' THEN coalesce(s.ended_at, now()) ELSE s.ended_at END,
        seen_at = CASE WHEN g.seen THEN now() ELSE s.seen_at END
    FROM given AS g
    WHERE s.id = g.id AND s.epoch = g.epoch AND (s.last_seq, s.last_sub) <= (g.seq, g.sub)
    RETURNING s.id, s.user_id, s.lecture_id, g.ranges, g.position_ms,
              (old.last_seq, old.last_sub) < (new.last_seq, new.last_sub) AS moved
), moved AS (
    SELECT array_agg(user_id ORDER BY id) AS user_ids, array_agg(lecture_id ORDER BY id) AS lecture_ids,
           array_agg(ranges::int4multirange ORDER BY id) AS ranges, array_agg(position_ms ORDER BY id) AS positions_ms,
           array_agg(false) AS by_hand
    FROM saved WHERE moved AND position_ms IS NOT NULL
), folded AS (
    SELECT count(*) FROM moved, record_progress(user_ids, lecture_ids, ranges, positions_ms, by_hand, :complete_share)
)
SELECT saved.id FROM saved, folded;

-- name: get_epochs(ids)
SELECT id, epoch, claimed_by, status FROM video_sessions WHERE id = ANY (:ids::uuid[]);

-- name: beat(process_id)!
INSERT INTO processes (id) VALUES (:process_id) ON CONFLICT (id) DO UPDATE SET seen_at = now();

-- name: leave(process_id)!
DELETE FROM processes WHERE id = :process_id;

-- name: forget_processes(older_than_s)!
DELETE FROM processes WHERE seen_at < now() - make_interval(secs => :older_than_s);

-- name: lock_viewer(user_id)$
-- Serialises the making of sessions by one user, so that the limit on live ones holds.
SELECT id FROM users WHERE id = :user_id FOR NO KEY UPDATE;

-- name: get_watchable_video(video_id, viewer_id, viewer_role)^
-- Nothing for what the viewer may not even know; `may_watch` for the rest.
SELECT v.id, v.lecture_id, v.status, v.cloudflare_uid, v.ladder, v.segment_s,
       may_watch(:viewer_id, :viewer_role, v.id) AS may_watch
FROM videos AS v
JOIN lectures AS l ON l.id = v.lecture_id
JOIN courses AS c ON c.id = l.course_id
WHERE v.id = :video_id AND (c.status = 'published' OR entitled(:viewer_id, :viewer_role, c.id));

-- name: set_ladder(video_id, ladder, segment_s)!
UPDATE videos SET ladder = :ladder, segment_s = :segment_s WHERE id = :video_id;

-- name: list_live_sessions(user_id, window_s)
SELECT id, video_id, device, seen_at FROM video_sessions
WHERE user_id = :user_id AND status <> 'ended' AND seen_at > now() - make_interval(secs => :window_s)
ORDER BY seen_at DESC;

-- name: end_sessions(ids)
-- Taken over by a new session of the same user: an owner learns of it as of any claim.
UPDATE video_sessions SET status = 'ended', ended_at = now(), epoch = epoch + 1, claimed_by = 'socket', owner = NULL
WHERE id = ANY (:ids::uuid[]) AND status <> 'ended'
RETURNING id;

-- name: insert_session(video_id, user_id, lecture_id, device, viewport, network, save_data, player, ladder, segment_s, decision)^
INSERT INTO video_sessions (video_id, user_id, lecture_id, device, viewport, connection, save_data, player, ladder,
                            segment_s, decision, resume_ms)
VALUES (:video_id, :user_id, :lecture_id, :device, :viewport, :network, :save_data, :player, :ladder,
        :segment_s, :decision,
        coalesce((SELECT position_ms FROM progress WHERE user_id = :user_id AND lecture_id = :lecture_id), 0))
RETURNING id, resume_ms;

-- name: get_session(session_id, viewer_id, viewer_role)^
-- For its own user and for the course's owner; nothing for everybody else.
SELECT s.* FROM video_sessions AS s
JOIN lectures AS l ON l.id = s.lecture_id
JOIN courses AS c ON c.id = l.course_id
WHERE s.id = :session_id AND (s.user_id = :viewer_id OR c.creator_id = :viewer_id OR :viewer_role = 'admin');

-- name: get_own_session(session_id, user_id, alive_s)^
-- For its user's frames: where it stands, and whether the process that owns it is alive.
SELECT s.id, s.status, s.owner, s.last_seq, s.last_sub, s.decision, s.video_id,
       extract(epoch FROM now() - s.created_at)::float8 AS age_s,
       EXISTS (SELECT 1 FROM processes AS p
               WHERE p.id = s.owner AND p.seen_at > now() - make_interval(secs => :alive_s)) AS owner_alive
FROM video_sessions AS s
WHERE s.id = :session_id AND s.user_id = :user_id;

-- name: get_standing(session_id)^
SELECT status, last_seq, last_sub FROM video_sessions WHERE id = :session_id;

-- name: give_to_reaper(session_id)!
-- What nobody holds is given to an owner who never lived, so that a reaper folds what is in the stream.
UPDATE video_sessions SET owner = uuidv7() WHERE id = :session_id AND owner IS NULL AND status <> 'ended';
