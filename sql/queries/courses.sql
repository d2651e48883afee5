-- name: insert_course(creator_id, title, description, thumbnail_url, price, currency, status)$
INSERT INTO courses (creator_id, title, description, thumbnail_url, price, currency, status)
VALUES (:creator_id, :title, :description, :thumbnail_url, :price, :currency, :status)
RETURNING id;

-- name: list_newest(viewer_id, viewer_role, status, creator_id, is_free, q, after_id, page_size)
-- Ids are made in the order of time.
SELECT s.*
FROM (
    SELECT c.id
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    WHERE :after_id::uuid IS NULL OR c.id < :after_id
    ORDER BY c.id DESC LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.id DESC;

-- name: list_by_title(viewer_id, viewer_role, status, creator_id, is_free, q, after_key, after_id, page_size)
-- Whatever the case and the accents.
SELECT s.*, found.sort_key
FROM (
    SELECT c.id, c.sort_title AS sort_key
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    WHERE :after_id::uuid IS NULL OR (c.sort_title, c.id) > (:after_key::text, :after_id)
    ORDER BY c.sort_title, c.id LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.sort_key, found.id;

-- name: list_popular(viewer_id, viewer_role, status, creator_id, is_free, q, after_key, after_id, page_size)
-- Most learners first.
SELECT s.*, found.sort_key
FROM (
    SELECT c.id, n.active_count AS sort_key
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    JOIN course_counts AS n ON n.course_id = c.id
    WHERE :after_id::uuid IS NULL OR (n.active_count, c.id) < (:after_key::integer, :after_id)
    ORDER BY n.active_count DESC, c.id DESC LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.sort_key DESC, found.id DESC;

-- name: list_cheapest(viewer_id, viewer_role, status, creator_id, is_free, q, after_key, after_id, page_size)
-- By the amount, whatever the currency.
SELECT s.*, found.sort_key
FROM (
    SELECT c.id, c.price AS sort_key
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    WHERE :after_id::uuid IS NULL OR (c.price, c.id) > (:after_key::numeric, :after_id)
    ORDER BY c.price, c.id LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.sort_key, found.id;

-- name: list_dearest(viewer_id, viewer_role, status, creator_id, is_free, q, after_key, after_id, page_size)
-- By the amount, whatever the currency.
SELECT s.*, found.sort_key
FROM (
    SELECT c.id, c.price AS sort_key
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    WHERE :after_id::uuid IS NULL OR (c.price, c.id) < (:after_key::numeric, :after_id)
    ORDER BY c.price DESC, c.id DESC LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.sort_key DESC, found.id DESC;

-- name: list_relevant(viewer_id, viewer_role, status, creator_id, is_free, q, after_key, after_id, page_size)
-- Words in the title weigh most. A course's rank depends on nothing but itself and the words.
SELECT s.*, found.sort_key
FROM (
    SELECT c.id, ts_rank(c.words, wanted_words(:q)) AS sort_key
    FROM find_courses(:viewer_id, :viewer_role, :status, :creator_id, :is_free, :q) AS c
    WHERE :after_id::uuid IS NULL OR (ts_rank(c.words, wanted_words(:q)), c.id) < (:after_key::real, :after_id)
    ORDER BY ts_rank(c.words, wanted_words(:q)) DESC, c.id DESC LIMIT :page_size
) AS found
JOIN shown_courses AS s ON s.id = found.id
ORDER BY found.sort_key DESC, found.id DESC;

-- name: get_course(course_id, viewer_id, viewer_role)
-- Published courses are everybody's to see; others those who own them or are enrolled. For many at once: each parameter
-- is an array, and `place` says for which of its elements, from 1, a row is.
SELECT wanted.place, c.*
FROM unnest(:course_id::uuid[], :viewer_id::uuid[], :viewer_role::text[])
    WITH ORDINALITY AS wanted(course_id, viewer_id, viewer_role, place)
JOIN shown_courses AS c ON c.id = wanted.course_id
WHERE may_see(wanted.viewer_id, wanted.viewer_role, c.id, c.status);

-- name: get_right(course_id, viewer_id, viewer_role)$
-- Whether the viewer may take part; nothing for who may not even see it.
SELECT coalesce(entitled(:viewer_id, :viewer_role, c.id), false) FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: lock_course(course_id, viewer_id, viewer_role)^
-- As get_course, and nobody else changes the course or the order of its lectures until the transaction ends.
SELECT c.*, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR NO KEY UPDATE;

-- name: update_course(course_id, title, description, thumbnail_url, price, currency, status)!
UPDATE courses
SET title = :title, description = :description, thumbnail_url = :thumbnail_url, price = :price, currency = :currency,
    status = :status
WHERE id = :course_id;

-- name: set_picture(course_id, file_id, viewer_id)!
-- None when there is no such picture of the viewer's; `thumbnail_url` follows.
UPDATE courses SET thumbnail_file_id = :file_id
WHERE id = :course_id AND (:file_id::uuid IS NULL OR may_show_picture(:viewer_id, :file_id));

-- name: lock_course_wholly(course_id, viewer_id, viewer_role)^
-- As lock_course; nobody enrols or buys either, so that what is looked at next stays so.
SELECT c.*, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR UPDATE;

-- name: archive_if_taken(course_id)$
-- The course's id when somebody is or was enrolled, or paid: then it is archived. Else nothing.
UPDATE courses SET status = 'archived'
WHERE id = :course_id AND (
    EXISTS (SELECT 1 FROM enrollments WHERE course_id = :course_id)
    OR EXISTS (SELECT 1 FROM transactions WHERE course_id = :course_id))
RETURNING id;

-- name: delete_course(course_id)!
DELETE FROM courses WHERE id = :course_id;

-- name: last_place(course_id)$
-- The highest place taken in the course; 0 when it has no lecture.
SELECT coalesce(max(sequence_order), 0) FROM lectures WHERE course_id = :course_id;

-- name: make_place(course_id, place)!
-- Shift the lectures from `place` on by one, if somebody is there.
UPDATE lectures SET sequence_order = sequence_order + 1
WHERE course_id = :course_id AND sequence_order >= :place
  AND EXISTS (SELECT 1 FROM lectures WHERE course_id = :course_id AND sequence_order = :place);

-- name: close_gap(course_id, old_place, new_place)!
-- Move those between a lecture's old place and its new one by one towards the old.
UPDATE lectures SET sequence_order = sequence_order + CASE WHEN :new_place::integer < :old_place::integer THEN 1 ELSE -1 END
WHERE course_id = :course_id
  AND sequence_order BETWEEN least(:old_place::integer, :new_place::integer)
                         AND greatest(:old_place::integer, :new_place::integer)
  AND sequence_order <> :old_place;

-- name: list_lecture_ids(course_id)
SELECT id FROM lectures WHERE course_id = :course_id ORDER BY sequence_order;

-- name: order_lectures(course_id, lecture_ids)!
UPDATE lectures AS l SET sequence_order = wanted.place
FROM unnest(:lecture_ids::uuid[]) WITH ORDINALITY AS wanted (id, place)
WHERE l.course_id = :course_id AND l.id = wanted.id AND l.sequence_order <> wanted.place;

-- name: list_video_ids(lecture_id)$
SELECT coalesce(array_agg(id), '{}') FROM videos WHERE lecture_id = :lecture_id;

-- name: delete_lecture(lecture_id)!
-- With its videos, and with what was watched of it.
DELETE FROM lectures WHERE id = :lecture_id;

-- name: close_place(course_id, place)!
-- What comes after a lecture that goes moves up.
UPDATE lectures SET sequence_order = sequence_order - 1 WHERE course_id = :course_id AND sequence_order > :place;

-- name: insert_lecture(course_id, title, description, video_url, duration, sequence_order, is_preview)^
INSERT INTO lectures (course_id, title, description, video_url, duration, sequence_order, is_preview)
VALUES (:course_id, :title, :description, :video_url, :duration, :sequence_order, :is_preview)
RETURNING *;

-- name: list_lectures(course_id, after_place, after_id, page_size)
-- After the lecture `after_id`, wherever it stands by now. Where it was deleted, what came after it has moved up to its
-- place, `after_place`.
SELECT * FROM shown_lectures WHERE course_id = :course_id AND sequence_order >= coalesce(
    (SELECT sequence_order + 1 FROM lectures WHERE course_id = :course_id AND id = :after_id), :after_place::integer)
ORDER BY sequence_order LIMIT :page_size;

-- name: list_own_progress(viewer_id, lecture_ids)
SELECT * FROM progress WHERE user_id = :viewer_id AND lecture_id = ANY(:lecture_ids::uuid[]);

-- name: get_lecture(lecture_id, viewer_id, viewer_role)^
SELECT
    l.*,
    coalesce(:viewer_role = 'admin' OR c.creator_id = :viewer_id, false) AS viewer_owns,
    coalesce(entitled(:viewer_id, :viewer_role, c.id), false) AS viewer_entitled
FROM shown_lectures AS l JOIN courses AS c ON c.id = l.course_id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: lock_lecture(lecture_id, viewer_id, viewer_role)^
-- The course's row first, as for every change of its order; the lecture's too, so that it is read as it is then.
SELECT l.*, c.creator_id, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM courses AS c JOIN lectures AS l ON l.course_id = c.id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR NO KEY UPDATE OF c, l;

-- name: update_lecture(lecture_id, title, description, video_url, duration, sequence_order, is_preview)!
UPDATE lectures
SET title = :title, description = :description, video_url = :video_url, duration = :duration,
    sequence_order = :sequence_order, is_preview = :is_preview
WHERE id = :lecture_id;

-- name: get_lecture_video(lecture_id, viewer_id, viewer_role)^
SELECT v.*, watch_ends_at(:viewer_id, :viewer_role, v.id) AS viewer_ends_at
FROM videos AS v WHERE v.id = lecture_video_id(:lecture_id);

-- name: list_lecture_files(lecture_id, course_id, viewer_id, viewer_role)
-- The materials of the lecture, then those for the whole course, as far as the viewer may read them.
SELECT f.* FROM files AS f
WHERE f.course_id = :course_id AND (f.lecture_id = :lecture_id OR f.lecture_id IS NULL)
  AND f.purpose = 'material' AND f.status = 'ready' AND may_read_file(:viewer_id, :viewer_role, f)
ORDER BY f.lecture_id IS NULL, f.id LIMIT 200;
