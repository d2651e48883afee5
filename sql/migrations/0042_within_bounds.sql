-- Ranges of which only the 1,999 longest gaps are left: what lies in the others counts as watched.
CREATE FUNCTION without_small_gaps(ranges int4multirange) RETURNS int4multirange LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT int4multirange(range_merge(ranges)) - (
        SELECT range_agg(gap) FROM (
            SELECT gap FROM unnest(int4multirange(range_merge(ranges)) - ranges) AS gap
            ORDER BY upper(gap) - lower(gap) DESC, lower(gap) LIMIT 1999
        ) AS longest)
$$;

-- As before (0018_cheaper_checkpoints.sql), but that no more than 2,000 ranges are kept apart, as in a session
-- (`MAX_RANGES`). Whoever sent ever new ones, a thousand at once, held Postgres up for seconds with each write after some
-- minutes: the own ones, and all those that were saved together with it. (A multirange takes 13 bytes for each range, and
-- 8: to count them would cost as much as the rest.)
CREATE OR REPLACE FUNCTION record_progress(
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
        seen.completed,
        CASE WHEN seen.completed THEN now() END
    FROM (
        SELECT given.*, l.end_ms, given.by_hand OR is_complete(given.ranges, l.end_ms, share) AS completed
        FROM (
            SELECT
                g.user_id,
                g.lecture_id,
                coalesce(range_agg(g.ranges), '{}') AS ranges,
                (array_agg(g.position_ms ORDER BY g.place DESC) FILTER (WHERE g.position_ms IS NOT NULL))[1]
                    AS position_ms,
                coalesce(bool_or(g.by_hand), false) AS by_hand
            FROM unnest(user_ids, lecture_ids, ranges, positions_ms, by_hand) WITH ORDINALITY
                AS g (user_id, lecture_id, ranges, position_ms, by_hand, place)
            GROUP BY g.user_id, g.lecture_id
        ) AS given
        LEFT JOIN lectures AS l ON l.id = given.lecture_id
    ) AS seen
    LEFT JOIN progress AS known ON known.user_id = seen.user_id AND known.lecture_id = seen.lecture_id
    ORDER BY seen.user_id, seen.lecture_id
    ON CONFLICT (user_id, lecture_id) DO UPDATE SET
        watched_ranges = CASE
            WHEN pg_column_size(kept.watched_ranges + EXCLUDED.watched_ranges) > 13 * 2000 + 8
                THEN without_small_gaps(kept.watched_ranges + EXCLUDED.watched_ranges)
            ELSE kept.watched_ranges + EXCLUDED.watched_ranges END,
        position_ms = EXCLUDED.position_ms,
        (completed, completed_at) = (
            SELECT kept.completed OR EXCLUDED.completed OR now_complete,
                   coalesce(kept.completed_at, EXCLUDED.completed_at, CASE WHEN now_complete THEN now() END)
            FROM (
                SELECT is_complete(kept.watched_ranges + EXCLUDED.watched_ranges, l.end_ms, share) AS now_complete
                FROM lectures AS l WHERE l.id = EXCLUDED.lecture_id
                OFFSET 0  -- so that it is asked once
            ) AS l
        ),
        last_watched_at = now(),
        updated_at = now()
    RETURNING *
$$;

UPDATE progress SET watched_ranges = without_small_gaps(watched_ranges)
WHERE pg_column_size(watched_ranges) > 250 AND (SELECT count(*) FROM unnest(watched_ranges)) > 2000;

-- A course may be longer than an integer has seconds, from some two thousand lectures of the longest kind on: nobody could
-- read it any more, nor any list or answer in which it was among others. (Its length stays an integer, for processes that
-- were started before this ask for it. And this stands last: who reads courses waits from here on until all is done.)
CREATE OR REPLACE VIEW shown_courses AS
SELECT
    c.id, c.creator_id, c.title, c.description, c.thumbnail_url, c.price, c.currency, c.is_free, c.status,
    c.created_at, c.updated_at,
    n.lecture_count,
    n.active_count - (
        SELECT count(*) FROM enrollments AS e WHERE e.course_id = c.id AND e.is_active AND e.expires_at <= now()
    )::integer AS enrolled_count,
    least(round(n.duration_ms / 1000.0), 2147483647)::integer AS duration
FROM courses AS c JOIN course_counts AS n ON n.course_id = c.id;
