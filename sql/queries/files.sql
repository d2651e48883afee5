-- name: lock_owner(user_id)$
-- Nobody else adds files of the user's until the transaction ends. To be asked before they are counted, not with it:
-- a statement sees what was there when it began.
SELECT id FROM users WHERE id = :user_id FOR NO KEY UPDATE;

-- name: count_bytes(user_id)$
-- What is kept for the user, with what is on its way.
SELECT coalesce(sum(size_bytes), 0)::bigint FROM files WHERE owner_id = :user_id;

-- name: get_course(course_id, viewer_id, viewer_role)^
SELECT c.id, c.creator_id, coalesce(:viewer_role = 'admin' OR c.creator_id = :viewer_id, false) AS viewer_owns
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: get_lecture_course(lecture_id)$
SELECT course_id FROM lectures WHERE id = :lecture_id;

-- name: insert_file(file_id, owner_id, course_id, lecture_id, filename, size_bytes, content_type, purpose, visibility, status)^
-- None when the owner is gone.
INSERT INTO files (id, owner_id, course_id, lecture_id, filename, size_bytes, content_type, purpose, visibility, status)
SELECT :file_id, id, :course_id, :lecture_id, :filename, :size_bytes, :content_type, :purpose, :visibility, :status
FROM users WHERE id = :owner_id AND erased_at IS NULL
RETURNING *;

-- name: new_id()$
SELECT uuidv7();

-- name: get_file(file_id, viewer_id, viewer_role)^
SELECT f.*, may_remove_file(:viewer_id, :viewer_role, f) AS viewer_may_remove,
    coalesce(c.creator_id, f.owner_id) AS keeper_id
FROM files AS f LEFT JOIN courses AS c ON c.id = f.course_id
WHERE f.id = :file_id AND may_read_file(:viewer_id, :viewer_role, f);

-- name: get_public_file(file_id)^
SELECT * FROM files WHERE id = :file_id AND visibility = 'public' AND status = 'ready';

-- name: delete_file(file_id)!
DELETE FROM files WHERE id = :file_id;

-- name: list_own_files(viewer_id, purpose, after_id, page_size)
SELECT * FROM files
WHERE owner_id = :viewer_id AND (:purpose::text IS NULL OR purpose = :purpose)
  AND (:after_id::uuid IS NULL OR id < :after_id)
ORDER BY id DESC LIMIT :page_size;

-- name: list_course_files(course_id, viewer_id, viewer_role, purpose, after_id, page_size)
-- Those that the viewer may read, of a course that the viewer may see.
SELECT f.* FROM files AS f
WHERE f.course_id = :course_id
  AND EXISTS (SELECT FROM courses WHERE id = :course_id AND may_see(:viewer_id, :viewer_role, id, status))
  AND (:purpose::text IS NULL OR f.purpose = :purpose)
  AND (:after_id::uuid IS NULL OR f.id < :after_id)
  AND may_read_file(:viewer_id, :viewer_role, f)
ORDER BY f.id DESC LIMIT :page_size;

-- name: insert_upload(file_id, store_upload_id, part_size, ttl_s)^
INSERT INTO file_uploads (file_id, store_upload_id, part_size, expires_at)
VALUES (:file_id, :store_upload_id, :part_size, clock_timestamp() + make_interval(secs => :ttl_s))
RETURNING *;

-- name: get_upload(upload_id, owner_id)^
-- Its file, with what the store needs.
SELECT f.*, u.store_upload_id, u.part_size
FROM file_uploads AS u JOIN files AS f ON f.id = u.file_id
WHERE u.id = :upload_id AND f.owner_id = :owner_id;

-- name: get_own_upload(upload_id, owner_id)^
SELECT f.id, f.status FROM file_uploads AS u JOIN files AS f ON f.id = u.file_id
WHERE u.id = :upload_id AND f.owner_id = :owner_id FOR UPDATE OF f;

-- name: make_ready(file_id)^
-- None when it was taken away meanwhile.
UPDATE files SET status = 'ready' WHERE id = :file_id RETURNING *;

-- name: set_picture(file_id, width, height, thumbnails)^
UPDATE files SET width = :width, height = :height, thumbnails = :thumbnails WHERE id = :file_id RETURNING *;

-- name: get_by_id(file_id)^
SELECT * FROM files WHERE id = :file_id;

-- name: sweep_uploads(most)!
-- What was begun and not completed in time; the store is told by what the trigger notes.
DELETE FROM files WHERE id = ANY (ARRAY(
    SELECT f.id FROM file_uploads AS u JOIN files AS f ON f.id = u.file_id
    WHERE u.expires_at < clock_timestamp() AND f.status = 'pending'
    ORDER BY u.expires_at LIMIT :most FOR UPDATE OF f SKIP LOCKED));

-- name: forget_uploads(most)!
-- Of those completed long ago.
DELETE FROM file_uploads WHERE id = ANY (ARRAY(
    SELECT u.id FROM file_uploads AS u JOIN files AS f ON f.id = u.file_id
    WHERE u.expires_at < clock_timestamp() AND f.status = 'ready'
    ORDER BY u.expires_at LIMIT :most FOR UPDATE OF u SKIP LOCKED));
