-- name: get_course(course_id, viewer_id, viewer_role)^
-- Nothing for what the viewer may not even know.
SELECT c.id, entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: list_active(course_id, viewer_id, lecture_id, solved, unread, as_of, seen, after_pinned, after_at, after_id, page_size)
-- Pinned ones first, then by last activity as it was when the first page was asked for: who reads on sees each of those
-- topics once, whatever is written and pinned meanwhile. What was active or pinned since is little, and looked at apart from
-- the index; so is what was within the minute before, for it may have been committed since.
SELECT s.*, unread_posts(:viewer_id, s.id) AS unread, found.was_pinned, found.active_at,
    coalesce(:as_of::timestamptz, now()) AS as_of, coalesce(:seen::text, pg_current_snapshot()::text) AS seen
FROM (
    (SELECT t.id, t.is_pinned AS was_pinned, t.last_post_at AS active_at
     FROM find_topics(:viewer_id, :course_id, :lecture_id, :solved, :unread, NULL) AS t
     WHERE t.last_post_at <= coalesce(:as_of::timestamptz - interval '1 minute', 'infinity')
       AND t.is_pinned = pinned_at(t, :as_of)
       AND (:after_id::uuid IS NULL
            OR (t.is_pinned, t.last_post_at, t.id) < (:after_pinned::boolean, :after_at::timestamptz, :after_id))
     ORDER BY t.is_pinned DESC, t.last_post_at DESC, t.id DESC LIMIT :page_size)
    UNION ALL
    (SELECT t.id, pinned_at(t, :as_of), a.at
     FROM find_topics(:viewer_id, :course_id, :lecture_id, :solved, :unread, NULL) AS t
     CROSS JOIN LATERAL (SELECT active_at(t, :as_of, :seen::text::pg_snapshot) AS at OFFSET 0) AS a
     WHERE t.last_post_at > :as_of::timestamptz - interval '1 minute' AND t.created_at <= :as_of
       AND (pinned_at(t, :as_of), a.at, t.id) < (:after_pinned, :after_at, :after_id)
     ORDER BY pinned_at(t, :as_of) DESC, a.at DESC, t.id DESC LIMIT :page_size)
    UNION ALL
    (SELECT t.id, NOT t.is_pinned, t.last_post_at
     FROM find_topics(:viewer_id, :course_id, :lecture_id, :solved, :unread, NULL) AS t
     WHERE t.pinned_during <> '{}' AND t.is_pinned <> pinned_at(t, :as_of)
       AND t.last_post_at <= :as_of::timestamptz - interval '1 minute'
       AND (NOT t.is_pinned, t.last_post_at, t.id) < (:after_pinned, :after_at, :after_id)
     ORDER BY NOT t.is_pinned DESC, t.last_post_at DESC, t.id DESC LIMIT :page_size)
    ORDER BY was_pinned DESC, active_at DESC, id DESC LIMIT :page_size
) AS found
JOIN shown_topics AS s ON s.id = found.id
ORDER BY found.was_pinned DESC, found.active_at DESC, found.id DESC;

-- name: list_relevant(course_id, viewer_id, lecture_id, solved, unread, q, after_rank, after_id, page_size)
-- Words in the title weigh most.
SELECT s.*, unread_posts(:viewer_id, s.id) AS unread, found.rank
FROM (
    SELECT t.id, ts_rank(t.words, wanted_words(:q)) AS rank
    FROM find_topics(:viewer_id, :course_id, :lecture_id, :solved, :unread, :q) AS t
    WHERE :after_id::uuid IS NULL OR (ts_rank(t.words, wanted_words(:q)), t.id) < (:after_rank::real, :after_id)
    ORDER BY ts_rank(t.words, wanted_words(:q)) DESC, t.id DESC LIMIT :page_size
) AS found
JOIN shown_topics AS s ON s.id = found.id
ORDER BY found.rank DESC, found.id DESC;

-- name: insert_topic(course_id, creator_id, title, lecture_id, position_ms)$
INSERT INTO forum_topics (course_id, creator_id, title, lecture_id, position_ms)
VALUES (:course_id, :creator_id, :title, :lecture_id, :position_ms) RETURNING id;

-- name: get_topic(topic_id, viewer_id, viewer_role)^
SELECT t.*, unread_posts(:viewer_id, t.id) AS unread, entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM shown_topics AS t JOIN courses AS c ON c.id = t.course_id
WHERE t.id = :topic_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: lock_topic(topic_id, viewer_id, viewer_role)^
-- Nobody posts in it, edits or marks a solution until the transaction ends.
SELECT t.id, t.course_id, t.creator_id, t.title, t.is_pinned, t.is_locked, c.creator_id AS course_creator_id,
       (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns_course,
       entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM forum_topics AS t JOIN courses AS c ON c.id = t.course_id
WHERE t.id = :topic_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR NO KEY UPDATE OF t;

-- name: lock_post(post_id, viewer_id, viewer_role)^
-- The post with its topic, as lock_topic; nothing for one that was deleted.
SELECT p.id, p.topic_id, p.user_id, t.course_id, t.creator_id AS topic_creator_id, c.creator_id AS course_creator_id,
       (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns_course,
       entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM forum_topics AS t JOIN courses AS c ON c.id = t.course_id JOIN forum_posts AS p ON p.topic_id = t.id
WHERE p.id = :post_id AND p.deleted_at IS NULL AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR NO KEY UPDATE OF t, p;

-- name: update_topic(topic_id, title, is_pinned, is_locked)!
UPDATE forum_topics SET title = :title, is_pinned = :is_pinned, is_locked = :is_locked WHERE id = :topic_id;

-- name: others_have_posted(topic_id, user_id)$
SELECT EXISTS (SELECT 1 FROM forum_posts WHERE topic_id = :topic_id AND user_id <> :user_id AND deleted_at IS NULL);

-- name: delete_topic(topic_id)!
DELETE FROM forum_topics WHERE id = :topic_id;

-- name: list_posts(topic_id, after_id, page_size)
-- The oldest first.
SELECT * FROM shown_posts
WHERE topic_id = :topic_id AND (:after_id::uuid IS NULL OR id > :after_id)
ORDER BY id LIMIT :page_size;

-- name: mark_read(topic_id, user_id, post_id)!
-- In a topic that is deleted meanwhile there is nothing to read.
INSERT INTO forum_reads AS r (user_id, topic_id, last_read_id)
SELECT :user_id, topic.id, :post_id
FROM (SELECT id FROM forum_topics WHERE id = :topic_id FOR KEY SHARE) AS topic
ON CONFLICT (user_id, topic_id) DO UPDATE SET last_read_id = excluded.last_read_id, read_at = now()
WHERE r.last_read_id < excluded.last_read_id;

-- name: count_unread(topic_id, user_id)$
SELECT unread_posts(:user_id, :topic_id);

-- name: insert_post(topic_id, user_id, content)$
INSERT INTO forum_posts (topic_id, user_id, content) VALUES (:topic_id, :user_id, :content) RETURNING id;

-- name: get_post(post_id, viewer_id, viewer_role)^
SELECT p.*, t.course_id, entitled(:viewer_id, :viewer_role, c.id) AS viewer_entitled
FROM shown_posts AS p JOIN forum_topics AS t ON t.id = p.topic_id JOIN courses AS c ON c.id = t.course_id
WHERE p.id = :post_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: update_post(post_id, content)!
-- The same words again are no edit.
UPDATE forum_posts SET content = :content, edited_at = now() WHERE id = :post_id AND content <> :content;

-- name: delete_post(post_id)!
-- It stays in its place, and says nothing any more.
UPDATE forum_posts SET content = '', is_solution = false, deleted_at = now() WHERE id = :post_id;

-- name: unset_other_solution(topic_id, post_id)!
UPDATE forum_posts SET is_solution = false WHERE topic_id = :topic_id AND is_solution AND id <> :post_id;

-- name: set_solution(post_id, is_solution)!
UPDATE forum_posts SET is_solution = :is_solution WHERE id = :post_id AND is_solution <> :is_solution;
