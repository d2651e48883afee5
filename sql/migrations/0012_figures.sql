-- What instructors are shown of a video, folded while sessions are saved: never by looking at a million sessions.
-- The slots, and what they mean, stand in server/domain/figures.py.

-- What each session has added to its video's figures so far. A fold adds the difference to what stands here, in the
-- statement that changes what stands here: so nothing counts twice, whatever is sent again.
CREATE TABLE session_figures (
    session_id uuid PRIMARY KEY REFERENCES video_sessions ON DELETE CASCADE,
    sums bigint[] NOT NULL,
    -- The percents of the video, 0 to 99, of which any part was watched.
    percents int4multirange NOT NULL
) WITH (fillfactor = 70);

-- The sums over a video's sessions by the UTC day on which these were created, and over all days as day -infinity.
CREATE TABLE video_figures (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    day date NOT NULL,
    slot smallint NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (video_id, day, slot)
) WITH (fillfactor = 50);

-- Who viewed a video on a day, and on any day as day -infinity, so that they count once.
CREATE TABLE video_viewers (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    day date NOT NULL,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (video_id, day, user_id)
);
CREATE INDEX video_viewers_user_id_idx ON video_viewers (user_id);

-- Who watches now: few of a video's sessions.
CREATE INDEX video_sessions_active_idx ON video_sessions (video_id) WHERE status = 'active';

-- What was ended beside its owner, until its stream is folded.
CREATE INDEX video_sessions_unfolded_idx ON video_sessions (owner) WHERE status = 'ended' AND owner IS NOT NULL;

-- How a session's contribution changed, by the video's slots. Slot 12 holds the bucket of the start-up delay, which is
-- counted in the bucket's own slot.
CREATE FUNCTION figure_changes(
    new_sums bigint[], old_sums bigint[], new_percents int4multirange, old_percents int4multirange
) RETURNS TABLE (slot integer, change bigint) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT place::integer - 1, coalesce(new, 0) - coalesce(old, 0)
    FROM unnest(new_sums, old_sums) WITH ORDINALITY AS u (new, old, place)
    WHERE coalesce(new, 0) <> coalesce(old, 0) AND place <> 13
    UNION ALL
    SELECT percent, 1
    FROM unnest(new_percents - coalesce(old_percents, '{}')) AS r, generate_series(100 + lower(r), 99 + upper(r)) AS percent
    UNION ALL
    SELECT percent, -1
    FROM unnest(coalesce(old_percents, '{}') - new_percents) AS r, generate_series(100 + lower(r), 99 + upper(r)) AS percent
    UNION ALL
    SELECT 1000 + new_sums[13]::integer, 1 WHERE new_sums[13] > 0 AND new_sums[13] IS DISTINCT FROM old_sums[13]
    UNION ALL
    SELECT 1000 + old_sums[13]::integer, -1 WHERE old_sums[13] > 0 AND old_sums[13] <> new_sums[13]
$$;
