-- As before (0002_progress_rules.sql), but that 100 percent are all of the lectures and no less: 1,999 of 2,000 were rounded up.
CREATE OR REPLACE FUNCTION course_progress(
    learner uuid, course uuid,
    OUT lectures_total integer, OUT lectures_completed integer, OUT percent double precision, OUT completed boolean
) LANGUAGE sql STABLE AS $$
    SELECT
        total::integer,
        done::integer,
        CASE
            WHEN total = 0 THEN 0
            WHEN done < total THEN least(round(100.0 * done / total, 1), 99.9)
            ELSE 100
        END::double precision,
        total > 0 AND done = total
    FROM (
        SELECT count(*) AS total, count(*) FILTER (WHERE p.completed) AS done
        FROM lectures AS l LEFT JOIN progress AS p ON p.lecture_id = l.id AND p.user_id = learner
        WHERE l.course_id = course
    ) AS counts
$$;
