-- Rules that several domains ask of the database: what counts as watched, when a lecture is complete, where a learner
-- goes on, and who may watch a video. Positions and ranges are milliseconds.

-- When its owner last asked the video host about a video that is not ready: lost webhooks are made up for.
ALTER TABLE videos ADD COLUMN checked_at timestamptz;

-- A lecture's video: the newest that can be played, else the newest.
CREATE FUNCTION lecture_video_id(lecture uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT id FROM videos WHERE lecture_id = lecture ORDER BY (status = 'ready') DESC, id DESC LIMIT 1
$$;

-- Where a lecture ends: its own duration, else its video's; NULL when neither is known.
CREATE FUNCTION lecture_end_ms(lecture uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        nullif(l.duration, 0) * 1000,
        (SELECT nullif(round(v.duration_seconds * 1000), 0)::integer FROM videos AS v
         WHERE v.lecture_id = l.id AND v.duration_seconds IS NOT NULL
         ORDER BY (v.status = 'ready') DESC, v.id DESC LIMIT 1)
    )
    FROM lectures AS l WHERE l.id = lecture
$$;

-- Ranges without what lies past the end; as they are where no end is known.
CREATE FUNCTION clip_ranges(ranges int4multirange, end_ms integer) RETURNS int4multirange
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN end_ms IS NULL THEN ranges ELSE ranges * int4multirange(int4range(0, end_ms)) END
$$;

-- Whether so much of the lecture is covered that it counts as seen; `share` is a setting (0.9 = 90 %).
-- Without a known end nothing completes by itself.
CREATE FUNCTION is_complete(ranges int4multirange, end_ms integer, share double precision) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(end_ms > 0 AND covered(clip_ranges(ranges, end_ms)) >= share * end_ms, false)
$$;

-- The one way in which progress is written, by hand or from checkpoints, for any number of (user, lecture) at once:
-- ranges are united with those known and never shrink, a completion never un-happens, positions and ranges are cut at
-- the lecture's end. The arrays run in parallel; several entries of one (user, lecture) are folded, and the last
-- position given wins; a NULL position leaves the one that is kept; `by_hand` completes at once.
-- Rows are locked in the order of their keys, so that two callers never wait for each other crosswise.
CREATE FUNCTION record_progress(
    user_ids uuid[],
    lecture_ids uuid[],
    ranges int4multirange[],
    positions_ms integer[],
    by_hand boolean[],
    share double precision
) RETURNS SETOF progress LANGUAGE sql AS $$
    INSERT INTO progress AS kept (user_id, lecture_id, watched_ranges, position_ms, completed, completed_at)
    SELECT
        seen.user_id,
        seen.lecture_id,
        clip_ranges(seen.ranges, seen.end_ms),
        least(coalesce(seen.position_ms, known.position_ms, 0), seen.end_ms),
        seen.by_hand OR is_complete(seen.ranges, seen.end_ms, share),
        CASE WHEN seen.by_hand OR is_complete(seen.ranges, seen.end_ms, share) THEN now() END
    FROM (
        SELECT
            given.user_id,
            given.lecture_id,
            coalesce(range_agg(given.ranges), '{}') AS ranges,
            (array_agg(given.position_ms ORDER BY given.place DESC) FILTER (WHERE given.position_ms IS NOT NULL))[1]
                AS position_ms,
            coalesce(bool_or(given.by_hand), false) AS by_hand,
            lecture_end_ms(given.lecture_id) AS end_ms
        FROM unnest(user_ids, lecture_ids, ranges, positions_ms, by_hand) WITH ORDINALITY
            AS given (user_id, lecture_id, ranges, position_ms, by_hand, place)
        GROUP BY given.user_id, given.lecture_id
        ORDER BY given.user_id, given.lecture_id
    ) AS seen
    LEFT JOIN progress AS known ON known.user_id = seen.user_id AND known.lecture_id = seen.lecture_id
    ORDER BY seen.user_id, seen.lecture_id
    ON CONFLICT (user_id, lecture_id) DO UPDATE SET
        watched_ranges = kept.watched_ranges + EXCLUDED.watched_ranges,
        position_ms = EXCLUDED.position_ms,
        completed = kept.completed OR EXCLUDED.completed OR is_complete(
            kept.watched_ranges + EXCLUDED.watched_ranges, lecture_end_ms(EXCLUDED.lecture_id), share),
        completed_at = coalesce(kept.completed_at, EXCLUDED.completed_at, CASE WHEN is_complete(
            kept.watched_ranges + EXCLUDED.watched_ranges, lecture_end_ms(EXCLUDED.lecture_id), share) THEN now() END),
        last_watched_at = now()
    RETURNING *
$$;

-- How far a learner is in a course; a course without lectures is 0 %, never NaN.
CREATE FUNCTION course_progress(
    learner uuid, course uuid,
    OUT lectures_total integer, OUT lectures_completed integer, OUT percent double precision, OUT completed boolean
) LANGUAGE sql STABLE AS $$
    SELECT
        total::integer,
        done::integer,
        CASE WHEN total = 0 THEN 0 ELSE round(100.0 * done / total, 1) END::double precision,
        total > 0 AND done = total
    FROM (
        SELECT count(*) AS total, count(*) FILTER (WHERE p.completed) AS done
        FROM lectures AS l LEFT JOIN progress AS p ON p.lecture_id = l.id AND p.user_id = learner
        WHERE l.course_id = course
    ) AS counts
$$;

-- Where a learner goes on in a course: in the lecture last watched; when that is complete, in the next one that is not
-- (from the start again when none comes after it). No row before anything was watched or when all is complete.
CREATE FUNCTION resume_point(
    learner uuid, course uuid, OUT lecture_id uuid, OUT position_ms integer, OUT last_watched_at timestamptz
) RETURNS SETOF record LANGUAGE sql STABLE AS $$
    WITH latest AS (
        SELECT l.sequence_order, p.lecture_id, p.last_watched_at
        FROM progress AS p JOIN lectures AS l ON l.id = p.lecture_id
        WHERE p.user_id = learner AND l.course_id = course
        ORDER BY p.last_watched_at DESC, l.sequence_order DESC LIMIT 1
    )
    SELECT l.id, coalesce(p.position_ms, 0), latest.last_watched_at
    FROM latest
    JOIN lectures AS l ON l.course_id = course
    LEFT JOIN progress AS p ON p.lecture_id = l.id AND p.user_id = learner
    WHERE NOT coalesce(p.completed, false)
    ORDER BY (l.id = latest.lecture_id) DESC, (l.sequence_order > latest.sequence_order) DESC, l.sequence_order
    LIMIT 1
$$;

-- Who may know of a course and its lectures: everybody when it is published, else the entitled. (Asked with what the
-- row at hand says, so that it costs nothing to ask.)
CREATE FUNCTION may_see(viewer uuid, viewer_role text, course uuid, status text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT status = 'published' OR entitled(viewer, viewer_role, course)
$$;

-- Who may watch a video: the entitled; of a published course also everybody where the lecture is a preview or the video
-- is public, and everybody who is signed in where the video is a preview. An anonymous viewer is NULL.
CREATE FUNCTION may_watch(viewer uuid, viewer_role text, video uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1
        FROM videos AS v JOIN lectures AS l ON l.id = v.lecture_id JOIN courses AS c ON c.id = l.course_id
        WHERE v.id = video AND (
            entitled(viewer, viewer_role, c.id)
            OR c.status = 'published' AND (
                l.is_preview OR v.visibility = 'public' OR (v.visibility = 'preview' AND viewer IS NOT NULL))
        )
    )
$$;

-- A lecture as it is shown: as long as its video, in whole seconds, where it has no length of its own.
CREATE VIEW shown_lectures AS
SELECT
    l.id, l.course_id, l.title, l.description, l.video_url,
    coalesce(round(lecture_end_ms(l.id) / 1000.0)::integer, l.duration) AS duration,
    l.sequence_order, l.is_preview, l.created_at, l.updated_at
FROM lectures AS l;

-- A course as it is shown: with how many lectures and learners it has, and its length in seconds.
CREATE VIEW shown_courses AS
SELECT
    c.*,
    (SELECT count(*) FROM lectures AS l WHERE l.course_id = c.id)::integer AS lecture_count,
    (SELECT count(*) FROM enrollments AS e
     WHERE e.course_id = c.id AND e.is_active AND (e.expires_at IS NULL OR e.expires_at > now()))::integer
        AS enrolled_count,
    (SELECT coalesce(round(sum(lecture_end_ms(l.id)) / 1000.0), 0) FROM lectures AS l WHERE l.course_id = c.id)::integer
        AS duration
FROM courses AS c;

-- An enrolment as it is shown: with how far its learner is, in percent.
CREATE VIEW shown_enrollments AS
SELECT e.*, NULL::uuid AS transaction_id, (course_progress(e.user_id, e.course_id)).percent AS progress
FROM enrollments AS e;
