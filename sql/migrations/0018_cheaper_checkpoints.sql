-- A checkpoint writes every session that changed, every second. What that costs Postgres is mostly what it does besides.

-- An index over what every checkpoint changes makes each write go into every index of the table, where a row that stays
-- on its page needs none (HOT). Who looks for sessions that nobody has seen for long looks among those that have not ended.
DROP INDEX video_sessions_seen_at_idx;
ALTER TABLE video_sessions SET (fillfactor = 50);
ALTER TABLE progress SET (fillfactor = 50);

-- What is written a thousand times and read once is kept as it came, not taken apart: nothing searches it.
ALTER TABLE video_sessions
    ALTER COLUMN state DROP DEFAULT,
    ALTER COLUMN state TYPE json USING state::json,
    ALTER COLUMN state SET DEFAULT '{}',
    ALTER COLUMN decision TYPE json USING decision::json;

-- Statements that say so themselves need no trigger for it.
DROP TRIGGER set_updated_at ON video_sessions;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON video_sessions FOR EACH ROW
WHEN (new.updated_at IS NOT DISTINCT FROM old.updated_at) EXECUTE FUNCTION set_updated_at();
DROP TRIGGER set_updated_at ON progress;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON progress FOR EACH ROW
WHEN (new.updated_at IS NOT DISTINCT FROM old.updated_at) EXECUTE FUNCTION set_updated_at();

-- What lies so close together that it cannot be enough need not be summed.
CREATE OR REPLACE FUNCTION is_complete(ranges int4multirange, end_ms integer, share double precision) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        end_ms > 0
        AND CASE WHEN upper(ranges) - lower(ranges) < share * end_ms THEN false
                 ELSE covered(clip_ranges(ranges, end_ms)) >= share * end_ms END,
        false)
$$;

-- As before (0002_progress_rules.sql), but that a lecture's end is looked up once for each row.
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
        watched_ranges = kept.watched_ranges + EXCLUDED.watched_ranges,
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
