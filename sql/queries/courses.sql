-- name: insert_course(creator_id, title, description, thumbnail_url, price, currency, status)$
INSERT INTO courses (creator_id, title, description, thumbnail_url, price, currency, status)
VALUES (:creator_id, :title, :description, :thumbnail_url, :price, :currency, :status)
RETURNING id;

-- name: list_published_courses(creator_id, is_free, q, before_id, page_size)
SELECT * FROM shown_courses AS c
WHERE c.status = 'published'
  AND (:creator_id::uuid IS NULL OR c.creator_id = :creator_id)
  AND (:is_free::boolean IS NULL OR c.is_free = :is_free)
  AND (:q::text IS NULL OR to_tsvector('english', c.title || ' ' || c.description) @@ websearch_to_tsquery('english', :q))
  AND (:before_id::uuid IS NULL OR c.id < :before_id)
ORDER BY c.id DESC LIMIT :page_size;

-- name: list_own_courses(viewer_id, viewer_role, status, creator_id, is_free, q, before_id, page_size)
-- Drafts and archived courses are their creator's to see, and an admin's.
SELECT * FROM shown_courses AS c
WHERE c.status = :status
  AND (c.creator_id = :viewer_id OR :viewer_role = 'admin')
  AND (:creator_id::uuid IS NULL OR c.creator_id = :creator_id)
  AND (:is_free::boolean IS NULL OR c.is_free = :is_free)
  AND (:q::text IS NULL OR to_tsvector('english', c.title || ' ' || c.description) @@ websearch_to_tsquery('english', :q))
  AND (:before_id::uuid IS NULL OR c.id < :before_id)
ORDER BY c.id DESC LIMIT :page_size;

-- name: get_course(course_id, viewer_id, viewer_role)^
-- Published courses are everybody's to see; others those who own them or are enrolled.
SELECT
    c.*,
    coalesce(:viewer_role = 'admin' OR c.creator_id = :viewer_id, false) AS viewer_owns,
    coalesce(entitled(:viewer_id, :viewer_role, c.id), false) AS viewer_entitled
FROM shown_courses AS c
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

-- name: insert_lecture(course_id, title, description, video_url, duration, sequence_order, is_preview)^
INSERT INTO lectures (course_id, title, description, video_url, duration, sequence_order, is_preview)
VALUES (:course_id, :title, :description, :video_url, :duration, :sequence_order, :is_preview)
RETURNING *;

-- name: list_lectures(course_id, after_place, page_size)
SELECT * FROM shown_lectures WHERE course_id = :course_id AND sequence_order > :after_place
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
SELECT l.*, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM courses AS c JOIN lectures AS l ON l.course_id = c.id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR NO KEY UPDATE OF c, l;

-- name: update_lecture(lecture_id, title, description, video_url, duration, sequence_order, is_preview)!
UPDATE lectures
SET title = :title, description = :description, video_url = :video_url, duration = :duration,
    sequence_order = :sequence_order, is_preview = :is_preview
WHERE id = :lecture_id;

-- name: get_lecture_video(lecture_id)^
SELECT * FROM videos WHERE id = lecture_video_id(:lecture_id);
