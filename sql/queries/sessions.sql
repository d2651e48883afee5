-- Video sessions: claims, checkpoints, the reaper; processes.

-- name: claim_session(session_id, owner, claimed_by, expected, until)^
-- The fence: whoever raised `epoch` last may write. Nothing for an ended or unknown session, for one that is not under
-- the epoch `expected` any more, if that is not null, and after `until`, if that is not: who asked was told by then that it
-- was in vain, and may have left the session to another socket.
UPDATE video_sessions AS s
SET epoch = epoch + 1, owner = :owner, claimed_by = :claimed_by, status = 'active', seen_at = now()
WHERE id = :session_id AND status <> 'ended' AND epoch = coalesce(:expected::bigint, epoch)
  AND clock_timestamp() < coalesce(:until::timestamptz, 'infinity')
RETURNING id, video_id, epoch, claimed_by, state, last_seq, last_sub, duplicates, ladder, viewport,
          save_data, resume_ms,
          (SELECT coalesce(round(v.duration_seconds * 1000)::integer, lecture_end_ms(s.lecture_id))
           FROM videos AS v WHERE v.id = s.video_id) AS length_ms,
          (SELECT f.sums[33:] FROM session_figures AS f WHERE f.session_id = s.id) AS decisions;

-- name: claim_orphans(owner, as_of, alive_s, suspend_after_s, end_after_s, seen_within_s, strays, lost, most)
-- Sessions whose owner is not alive, for their streams may hold what no checkpoint has; the caller's own strays; and
-- those that nobody owns nor has seen for long, to be suspended or ended as `retire_as` says. What has ended and still has
-- an owner was ended beside its socket, and its stream not yet folded; whose socket did so stays known, for who holds it
-- may not have heard yet. But for the strays only those seen within `seen_within_s`, if that is not null. With `lost` also
-- what the caller's reaper has claimed and does not know of. Who is alive is judged as of `as_of`, when the caller itself was
-- seen last: when Postgres hung and comes to this late, all others have been as silent as the caller.
UPDATE video_sessions AS s
SET epoch = epoch + 1, owner = :owner, claimed_by = CASE WHEN s.status = 'ended' THEN s.claimed_by ELSE 'reaper' END
WHERE id = ANY (ARRAY(
    SELECT s.id FROM video_sessions AS s
    WHERE s.status <> 'ended'
      AND (:seen_within_s::float8 IS NULL OR s.seen_at > now() - make_interval(secs => :seen_within_s)
           OR s.owner = :owner)
      AND (
        s.owner IS NULL AND s.status = 'active'
            AND s.seen_at < now() - make_interval(secs => least(:suspend_after_s::float8, :end_after_s::float8))
        OR s.owner IS NULL AND s.seen_at < now() - make_interval(secs => :end_after_s)
        OR s.owner = :owner AND (s.id = ANY (:strays::uuid[]) OR :lost::boolean AND s.claimed_by = 'reaper')
        OR s.owner <> :owner AND NOT EXISTS (
            SELECT 1 FROM processes AS p
            WHERE p.id = s.owner AND p.seen_at > coalesce(:as_of::timestamptz, now()) - make_interval(secs => :alive_s)))
    ORDER BY s.id LIMIT :most
    FOR UPDATE SKIP LOCKED
) || ARRAY(
    SELECT s.id FROM video_sessions AS s
    WHERE s.status = 'ended' AND s.owner IS NOT NULL
      AND (:seen_within_s::float8 IS NULL OR s.seen_at > now() - make_interval(secs => :seen_within_s)
           OR s.owner = :owner)
      AND (
        s.owner = :owner AND (s.id = ANY (:strays::uuid[]) OR :lost::boolean)
        OR s.owner <> :owner AND NOT EXISTS (
            SELECT 1 FROM processes AS p
            WHERE p.id = s.owner AND p.seen_at > coalesce(:as_of::timestamptz, now()) - make_interval(secs => :alive_s)))
    ORDER BY s.id LIMIT :most
    FOR UPDATE SKIP LOCKED
))
RETURNING id, video_id, epoch, claimed_by, state, last_seq, last_sub, duplicates, ladder, viewport,
          save_data, resume_ms,
          (SELECT coalesce(round(v.duration_seconds * 1000)::integer, lecture_end_ms(s.lecture_id))
           FROM videos AS v WHERE v.id = s.video_id) AS length_ms,
          (SELECT f.sums[33:] FROM session_figures AS f WHERE f.session_id = s.id) AS decisions,
          CASE WHEN status = 'ended' OR seen_at < now() - make_interval(secs => :end_after_s) THEN 'ended'
               WHEN seen_at < now() - make_interval(secs => :suspend_after_s) THEN 'suspended' END AS retire_as;

-- name: save_checkpoints(owner, ids, epochs, states, seqs, subs, duplicates, decisions, ranges, positions, seen, released, statuses, sums, percents, complete_share)$
-- Every changed session of a process at once, the progress that those which passed the fence made, and what those that
-- say so (`sums`) add to their videos' figures. Sent again after an unknown outcome it changes nothing: progress is folded
-- only where the row saw its cursor move, or once more where it waited for the first to be committed (`RETURNING old` shows
-- a row as it was before that, for a trigger looks at it first), which gives the same union; and figures are the difference
-- that `session_figures` itself saw.
-- The ids of those that passed; nothing when that is all of them, as it nearly always is. A row that somebody holds for
-- longer than a moment is not waited for: all are undone, with `lock_not_available`, so that the others can be sent alone.
-- Who folds what a session left (not `seen`) does so after the fact: where the learner has got to meanwhile, stays. That is
-- another place than this session's own: what it left may be folded in two parts, one after the other.
WITH given AS (
    SELECT g.*, g.sub_text::numeric AS sub FROM unnest(
        :ids::uuid[], :epochs::bigint[], :states::text[], :seqs::bigint[], :subs::text[], :duplicates::bigint[],
        :decisions::text[], :ranges::text[], :positions::integer[], :released::boolean[],
        :statuses::text[], :sums::text[], :percents::text[]
    ) AS g (id, epoch, state, seq, sub_text, duplicates, decision, ranges, position_ms, released, status, sums, percents)
), saved AS (
    UPDATE video_sessions AS s
    SET state = g.state, last_seq = g.seq, last_sub = g.sub, duplicates = g.duplicates,
        decision = g.decision,
        owner = CASE WHEN g.released THEN NULL ELSE :owner::uuid END,
        status = coalesce(g.status, s.status),
        ended_at = CASE WHEN g.status = 'ended' THEN coalesce(s.ended_at, now()) ELSE s.ended_at END,
        seen_at = CASE WHEN :seen::boolean THEN now() ELSE s.seen_at END, updated_at = now()
    FROM given AS g
    WHERE (SELECT set_config('lock_timeout', '500ms', true)) IS NOT NULL  -- once, before the first row
      AND s.id = g.id AND s.epoch = g.epoch AND (s.last_seq, s.last_sub) <= (g.seq, g.sub)
    RETURNING s.id, s.user_id, s.lecture_id, s.video_id, (s.created_at AT TIME ZONE 'UTC')::date AS day,
              g.ranges, g.position_ms, g.sums, g.percents,
              CASE WHEN :seen::boolean OR NOT EXISTS (
                  SELECT FROM progress AS p
                  WHERE p.user_id = s.user_id AND p.lecture_id = s.lecture_id AND p.last_watched_at > old.seen_at
                    AND p.position_ms::text IS DISTINCT FROM old.state::json ->> 'position_ms'
              ) THEN g.position_ms END AS place_ms,
              (old.last_seq, old.last_sub) < (new.last_seq, new.last_sub) AS moved
), moved AS (
    SELECT array_agg(user_id ORDER BY id) AS user_ids, array_agg(lecture_id ORDER BY id) AS lecture_ids,
           array_agg(ranges::int4multirange ORDER BY id) AS ranges, array_agg(place_ms ORDER BY id) AS positions_ms,
           array_agg(false) AS by_hand
    FROM saved WHERE moved AND position_ms IS NOT NULL
), progressed AS (
    SELECT count(*) FROM moved, record_progress(user_ids, lecture_ids, ranges, positions_ms, by_hand, :complete_share)
), figured AS (
    INSERT INTO session_figures AS f (session_id, sums, percents)
    SELECT id, sums::bigint[], percents::int4multirange FROM saved WHERE sums IS NOT NULL ORDER BY id
    ON CONFLICT (session_id) DO UPDATE SET sums = excluded.sums, percents = excluded.percents
    RETURNING f.session_id AS id, new.sums AS new_sums, old.sums AS old_sums, new.percents AS new_percents,
              old.percents AS old_percents
), viewed AS (
    INSERT INTO video_viewers (video_id, day, user_id)
    SELECT DISTINCT s.video_id, d.day, s.user_id
    FROM figured AS f JOIN saved AS s USING (id), LATERAL (VALUES (s.day), ('-infinity'::date)) AS d (day)
    WHERE f.new_sums[3] > coalesce(f.old_sums[3], 0)
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    RETURNING video_id, day
), changes AS (
    SELECT s.video_id, d.day, c.slot, sum(c.change) AS change
    FROM figured AS f JOIN saved AS s USING (id),
         figure_changes(f.new_sums, f.old_sums, f.new_percents, f.old_percents) AS c,
         LATERAL (VALUES (s.day), ('-infinity'::date)) AS d (day)
    GROUP BY 1, 2, 3 HAVING sum(c.change) <> 0
    UNION ALL
    SELECT video_id, day, 64, count(*) FROM viewed GROUP BY 1, 2
), summed AS (
    -- After progress was recorded: everybody locks in the same order, and what many share is locked last.
    INSERT INTO video_figures AS v (video_id, day, slot, value)
    SELECT video_id, day, slot, change FROM changes, progressed ORDER BY 1, 2, 3
    ON CONFLICT (video_id, day, slot) DO UPDATE SET value = v.value + excluded.value
)
SELECT CASE WHEN count(*) < cardinality(:ids::uuid[]) THEN coalesce(array_agg(saved.id), '{}') END
FROM saved, progressed;

-- name: touch_sessions(owner, ids, epochs)
-- Sessions without news are seen all the same; those that passed the fence, but for rows that somebody holds: another time.
UPDATE video_sessions AS s SET owner = :owner::uuid, seen_at = now(), updated_at = now()
WHERE s.id = ANY (ARRAY(
    SELECT s.id FROM video_sessions AS s
    JOIN unnest(:ids::uuid[], :epochs::bigint[]) AS held (id, epoch) ON s.id = held.id AND s.epoch = held.epoch
    ORDER BY s.id
    FOR NO KEY UPDATE OF s SKIP LOCKED
))
RETURNING s.id;

-- name: list_fenced(ids, epochs)
-- Of sessions, paired with the epochs under which they are held, those that have another one now (`epoch`), or are gone or
-- over: NULL, but for what a takeover ended, for there a newer socket is why.
SELECT held.id, CASE WHEN s.status <> 'ended' OR s.claimed_by = 'socket' THEN s.epoch END AS epoch, s.claimed_by
FROM unnest(:ids::uuid[], :epochs::bigint[]) AS held (id, epoch)
LEFT JOIN video_sessions AS s ON s.id = held.id
WHERE s.epoch IS DISTINCT FROM held.epoch;

-- name: beat(process_id)$
INSERT INTO processes (id) VALUES (:process_id) ON CONFLICT (id) DO UPDATE SET seen_at = now() RETURNING seen_at;

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
       may_watch(:viewer_id, :viewer_role, v.id) AS may_watch,
       watch_ends_at(:viewer_id, :viewer_role, v.id) AS ends_at
FROM videos AS v
JOIN lectures AS l ON l.id = v.lecture_id
JOIN courses AS c ON c.id = l.course_id
WHERE v.id = :video_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: get_watch_end(video_id, viewer_id, viewer_role)$
-- When one's right to watch ends, null where it does not by itself; now where it has ended.
SELECT CASE WHEN may_watch(:viewer_id, :viewer_role, :video_id)
            THEN watch_ends_at(:viewer_id, :viewer_role, :video_id) ELSE now() END;

-- name: list_unentitled(video_ids, viewer_ids, roles)
-- The places (from 1) of those who may not watch any more what is still there; with a video its sessions are gone.
SELECT given.place
FROM unnest(:video_ids::uuid[], :viewer_ids::uuid[], :roles::text[])
     WITH ORDINALITY AS given (video_id, viewer_id, role, place)
WHERE NOT may_watch(given.viewer_id, given.role, given.video_id)
  AND EXISTS (SELECT FROM videos AS v WHERE v.id = given.video_id);

-- name: list_live_sessions(user_id, window_s)
SELECT id, video_id, device, seen_at FROM video_sessions
WHERE user_id = :user_id AND status <> 'ended' AND seen_at > now() - make_interval(secs => :window_s)
ORDER BY seen_at DESC;

-- name: end_sessions(ids, owner)
-- Taken over by a new session of the same user: whoever holds one learns of it as of any claim. The caller owns them until
-- it has folded what their streams still hold.
UPDATE video_sessions AS s
SET status = 'ended', ended_at = now(), epoch = epoch + 1, claimed_by = 'socket', owner = :owner
WHERE id = ANY (:ids::uuid[]) AND status <> 'ended'
RETURNING id, video_id, epoch, claimed_by, state, last_seq, last_sub, duplicates, ladder, viewport,
          save_data, resume_ms,
          (SELECT coalesce(round(v.duration_seconds * 1000)::integer, lecture_end_ms(s.lecture_id))
           FROM videos AS v WHERE v.id = s.video_id) AS length_ms,
          (SELECT f.sums[33:] FROM session_figures AS f WHERE f.session_id = s.id) AS decisions,
          'ended' AS retire_as;

-- name: insert_session(video_id, user_id, lecture_id, device, viewport, network, save_data, player, ladder, segment_s, decision, state)^
-- Who got further in a longer video of the lecture goes on at this one's end.
INSERT INTO video_sessions (video_id, user_id, lecture_id, device, viewport, connection, save_data, player, ladder,
                            segment_s, decision, state, resume_ms)
VALUES (:video_id, :user_id, :lecture_id, :device, :viewport, :network, :save_data, :player, :ladder,
        :segment_s, :decision::json::text, :state::json::text,
        coalesce((SELECT least(p.position_ms, round(v.duration_seconds * 1000)::integer) FROM progress AS p, videos AS v
                  WHERE p.user_id = :user_id AND p.lecture_id = :lecture_id AND v.id = :video_id), 0))
RETURNING id, resume_ms;

-- name: get_session(session_id, viewer_id, viewer_role)^
-- For its own user and for the course's owner; nothing for everybody else.
SELECT s.* FROM video_sessions AS s
JOIN lectures AS l ON l.id = s.lecture_id
JOIN courses AS c ON c.id = l.course_id
WHERE s.id = :session_id AND (s.user_id = :viewer_id OR c.creator_id = :viewer_id OR :viewer_role = 'admin');

-- name: get_own_session(session_id, user_id, alive_s)^
-- For its user's frames: where it stands, and whether the process that owns it is alive.
SELECT s.id, s.status, s.owner, s.epoch, s.last_seq, s.last_sub, s.decision::json AS decision, s.video_id,
       extract(epoch FROM now() - s.created_at)::float8 AS age_s, now() AS read_at,
       EXISTS (SELECT 1 FROM processes AS p
               WHERE p.id = s.owner AND p.seen_at > now() - make_interval(secs => :alive_s)) AS owner_alive
FROM video_sessions AS s
WHERE s.id = :session_id AND s.user_id = :user_id;

-- name: get_standing(session_id)^
SELECT status, owner, last_seq, last_sub, decision::json AS decision FROM video_sessions WHERE id = :session_id;

-- name: give_to_reaper(session_ids)!
-- What nobody holds is given to an owner who never lived, so that a reaper folds what is in the stream.
UPDATE video_sessions SET owner = uuidv7() WHERE id = ANY (:session_ids::uuid[]) AND owner IS NULL;
