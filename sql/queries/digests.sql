-- name: is_wanted(user_id)$
SELECT EXISTS (SELECT 1 FROM forum_digests WHERE user_id = :user_id);

-- name: want(user_id)!
-- From now on.
INSERT INTO forum_digests (user_id) SELECT id FROM users WHERE id = :user_id AND erased_at IS NULL
ON CONFLICT (user_id) DO NOTHING;

-- name: unwant(user_id)!
DELETE FROM forum_digests WHERE user_id = :user_id;

-- name: ask_for_due(every_s, most)!
-- A job for each whose last one is so long ago; whatever process is first asks.
WITH due AS (
    UPDATE forum_digests SET asked_at = now()
    WHERE user_id = ANY (ARRAY(
        SELECT user_id FROM forum_digests WHERE asked_at <= now() - make_interval(secs => :every_s)
        ORDER BY asked_at LIMIT :most FOR UPDATE SKIP LOCKED))
    RETURNING user_id
)
INSERT INTO jobs (kind, payload) SELECT 'digest', jsonb_build_object('user_id', user_id) FROM due;

-- name: get_recipient(user_id)^
-- Who still wants it, at an address that was proven; and up to when everything that was posted can be seen: what a
-- transaction that is open has written may be older than what others have committed since.
SELECT u.id, u.username, u.email, d.told_until,
    (SELECT least(now(), min(a.xact_start)) FROM pg_stat_activity AS a WHERE a.backend_xid IS NOT NULL) AS until
FROM forum_digests AS d JOIN users AS u ON u.id = d.user_id
WHERE d.user_id = :user_id AND u.email_verified AND u.erased_at IS NULL;

-- name: list_unread(user_id, since, most)
-- Topics with posts of others since then that the user has not read, in courses that the user takes or owns; the newest
-- first. The courses before all else: of the topics of all courses those of one user are few.
WITH own AS MATERIALIZED (
    SELECT id FROM courses WHERE creator_id = :user_id
    UNION
    SELECT course_id FROM enrollments WHERE user_id = :user_id AND is_active
), readable AS MATERIALIZED (
    SELECT c.id, c.title FROM own JOIN courses AS c USING (id) JOIN users AS u ON u.id = :user_id
    WHERE entitled(u.id, u.role, c.id)
)
SELECT c.id AS course_id, c.title AS course, t.title, t.lecture_id, n.posts
FROM readable AS c
JOIN forum_topics AS t ON t.course_id = c.id AND t.last_post_at > :since
CROSS JOIN LATERAL (
    SELECT count(*) AS posts FROM forum_posts AS p
    WHERE p.topic_id = t.id AND p.deleted_at IS NULL AND p.user_id <> :user_id AND p.created_at > :since
      AND p.id > coalesce((SELECT r.last_read_id FROM forum_reads AS r WHERE r.user_id = :user_id AND r.topic_id = t.id),
                          '00000000-0000-0000-0000-000000000000')
) AS n
WHERE n.posts > 0
ORDER BY t.last_post_at DESC LIMIT :most;

-- name: note_told(user_id, until)!
UPDATE forum_digests SET told_until = :until WHERE user_id = :user_id AND told_until < :until;
