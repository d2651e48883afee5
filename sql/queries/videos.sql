-- name: get_lecture(lecture_id, viewer_id, viewer_role)^
SELECT l.id, l.title, c.creator_id, (:viewer_role = 'admin' OR c.creator_id = :viewer_id) AS viewer_owns
FROM lectures AS l JOIN courses AS c ON c.id = l.course_id
WHERE l.id = :lecture_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: insert_video(lecture_id, upload_user_id, title, description, cloudflare_uid, upload_expires_at)^
-- Nothing when the lecture is gone, which is locked first: a trigger writes it, and who deletes it would wait for us to
-- let go of it while we wait for them.
WITH lecture AS (
    SELECT id FROM lectures WHERE id = :lecture_id FOR NO KEY UPDATE
)
INSERT INTO videos (lecture_id, upload_user_id, title, description, cloudflare_uid, upload_expires_at)
SELECT id, :upload_user_id, :title, :description, :cloudflare_uid, :upload_expires_at FROM lecture
RETURNING *;

-- name: get_video(video_id, viewer_id, viewer_role)^
SELECT
    v.*,
    c.creator_id,
    coalesce(:viewer_role = 'admin' OR c.creator_id = :viewer_id, false) AS viewer_owns,
    may_watch(:viewer_id, :viewer_role, v.id) AS viewer_may_watch,
    watch_ends_at(:viewer_id, :viewer_role, v.id) AS viewer_ends_at
FROM videos AS v JOIN lectures AS l ON l.id = v.lecture_id JOIN courses AS c ON c.id = l.course_id
WHERE v.id = :video_id AND may_see(:viewer_id, :viewer_role, c.id, c.status);

-- name: update_video(video_id, title, description, visibility)^
-- What is NULL stays as it is.
UPDATE videos
SET title = coalesce(:title, title), description = coalesce(:description, description),
    visibility = coalesce(:visibility, visibility)
WHERE id = :video_id
RETURNING *;

-- name: delete_video(video_id)!
-- The lecture is locked first, as where a video is made.
WITH lecture AS (
    SELECT id FROM lectures WHERE id = (SELECT lecture_id FROM videos WHERE id = :video_id) FOR NO KEY UPDATE
)
DELETE FROM videos WHERE id = :video_id AND lecture_id IN (SELECT id FROM lecture);

-- name: forget_sessions(video_ids, most)!
-- Some of those that have ended, with nothing of them left to be folded.
DELETE FROM video_sessions WHERE id = ANY (ARRAY(
    SELECT id FROM video_sessions
    WHERE video_id = ANY (:video_ids::uuid[]) AND status = 'ended' AND owner IS NULL
    LIMIT :most FOR UPDATE SKIP LOCKED));

-- name: forget_viewers(video_ids, most)!
DELETE FROM video_viewers WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM video_viewers WHERE video_id = ANY (:video_ids::uuid[]) LIMIT :most FOR UPDATE SKIP LOCKED));

-- name: claim_check(video_id, pause_s)$
-- At most one question to the host every `pause_s`, whichever process is asked.
UPDATE videos SET checked_at = clock_timestamp()
WHERE id = :video_id AND status IN ('pending_upload', 'processing') AND cloudflare_uid IS NOT NULL
  AND (checked_at IS NULL OR checked_at < clock_timestamp() - make_interval(secs => :pause_s))
RETURNING cloudflare_uid;

-- name: note_status(cloudflare_uid, status, duration_seconds, thumbnail_url, error)^
-- What the host says may come late, twice and in any order: a status never goes back, `ready` least of all. The lecture
-- is locked first, as where a video is made, until the transaction ends: of two videos that become ready at once the
-- later one sees the other. Then the video is: of what is said twice at once, `RETURNING old` shows both the row as it
-- was before either, for a trigger looks at it before it is updated.
WITH lecture AS (
    SELECT id FROM lectures
    WHERE id = (SELECT lecture_id FROM videos WHERE cloudflare_uid = :cloudflare_uid) FOR NO KEY UPDATE
), before AS (
    SELECT v.id, v.status FROM videos AS v JOIN lecture ON v.lecture_id = lecture.id
    WHERE v.cloudflare_uid = :cloudflare_uid FOR NO KEY UPDATE OF v
)
UPDATE videos AS v
SET status = :status,
    duration_seconds = coalesce(:duration_seconds, duration_seconds),
    thumbnail_url = coalesce(:thumbnail_url, thumbnail_url),
    error = :error
FROM before
WHERE v.id = before.id
  AND array_position(ARRAY['pending_upload', 'processing', 'error', 'ready'], :status)
   >= array_position(ARRAY['pending_upload', 'processing', 'error', 'ready'], before.status)
RETURNING v.id, v.lecture_id, v.status, v.ladder IS NULL AS needs_ladder,
          before.status <> 'ready' AND v.status = 'ready' AS became_ready,
          before.status <> v.status AND v.status IN ('ready', 'error') AS settled;

-- name: get_hosted(video_id)^
SELECT id, status, cloudflare_uid, captions_version, created_at, upload_expires_at FROM videos
WHERE id = :video_id;

-- name: list_replaced(lecture_id)
SELECT id FROM videos
WHERE lecture_id = :lecture_id AND status = 'ready' AND cloudflare_uid IS NOT NULL
  AND id <> lecture_video_id(:lecture_id);

-- name: retire_video(video_id)$
-- The host's copy goes (a trigger sees to it), the row and its figures stay. NULL for one that plays again because its
-- successor is gone.
WITH replaced AS (
    SELECT id, EXISTS (SELECT 1 FROM video_sessions WHERE video_id = v.id AND status = 'active') AS is_watched
    FROM videos AS v
    WHERE id = :video_id AND cloudflare_uid IS NOT NULL AND id <> lecture_video_id(lecture_id)
), retired AS (
    UPDATE videos SET cloudflare_uid = NULL
    WHERE id IN (SELECT id FROM replaced WHERE NOT is_watched)
    RETURNING id
), silenced AS (
    DELETE FROM transcript_chunks WHERE video_id IN (SELECT id FROM retired)
), uncaptioned AS (
    DELETE FROM captions WHERE video_id IN (SELECT id FROM retired)
)
SELECT CASE WHEN is_watched THEN 'watched' ELSE 'retired' END FROM replaced;

-- name: change_captions(video_id)!
UPDATE videos SET captions_version = captions_version + 1 WHERE id = :video_id;

-- name: lock_captions(video_id, version)$
-- Unless they were changed since they were read. In a statement of its own: the next one sees what another job wrote.
SELECT lecture_id FROM videos WHERE id = :video_id AND captions_version = :version FOR NO KEY UPDATE;

-- name: get_captions(video_id, lang, for_s)^
-- What the host said since captions were last changed here: `vtt`, NULL where it has none in this language or was not
-- asked, and whether that need not be asked again yet.
SELECT v.captions_version AS version, c.vtt,
       coalesce(c.asked_at, l.asked_at) > clock_timestamp() - make_interval(secs => :for_s) AS is_fresh
FROM videos AS v
LEFT JOIN captions AS c ON c.video_id = v.id AND c.version = v.captions_version AND c.lang = :lang
LEFT JOIN caption_languages AS l
    ON l.video_id = v.id AND l.version = v.captions_version AND NOT :lang = ANY (l.langs)
WHERE v.id = :video_id;

-- name: keep_captions(video_id, lang, version, vtt)!
-- Unless they were changed and asked for again since.
INSERT INTO captions AS kept (video_id, lang, version, vtt)
SELECT id, :lang, :version, :vtt FROM videos WHERE id = :video_id FOR KEY SHARE
ON CONFLICT (video_id, lang) DO UPDATE
SET version = excluded.version, vtt = excluded.vtt, asked_at = excluded.asked_at
WHERE kept.version <= excluded.version;

-- name: keep_caption_languages(video_id, version, langs)!
-- There are no others, whatever was kept of them.
WITH gone AS (
    DELETE FROM captions WHERE video_id = :video_id AND version <= :version AND NOT lang = ANY (:langs)
)
INSERT INTO caption_languages AS kept (video_id, version, langs)
SELECT id, :version, :langs FROM videos WHERE id = :video_id FOR KEY SHARE
ON CONFLICT (video_id) DO UPDATE
SET version = excluded.version, langs = excluded.langs, asked_at = excluded.asked_at
WHERE kept.version <= excluded.version;

-- name: delete_transcript(video_id)!
-- What is kept of captions is asked for again: the host may have written some, or changed them when we did not hear so.
WITH doubted AS (
    UPDATE captions SET asked_at = '-infinity' WHERE video_id = :video_id
), doubted_too AS (
    UPDATE caption_languages SET asked_at = '-infinity' WHERE video_id = :video_id
)
DELETE FROM transcript_chunks WHERE video_id = :video_id;

-- name: insert_transcript(video_id, lecture_id, lang, from_s, to_s, texts)!
INSERT INTO transcript_chunks (video_id, lecture_id, lang, from_s, to_s, text)
SELECT :video_id, :lecture_id, :lang, piece.from_s, piece.to_s, piece.text
FROM unnest(:from_s::float8[], :to_s::float8[], :texts::text[]) AS piece (from_s, to_s, text);

-- name: set_ladder(video_id, ladder, segment_s)!
UPDATE videos SET ladder = :ladder, segment_s = :segment_s WHERE id = :video_id;

-- name: list_pieces_to_embed(video_id, model, count)
-- With the lecture's title: a piece by itself often does not say what it is about.
SELECT c.id, l.title || '. ' || c.text AS text
FROM transcript_chunks AS c JOIN lectures AS l ON l.id = c.lecture_id
WHERE c.video_id = :video_id AND c.embedded_by IS DISTINCT FROM :model ORDER BY c.from_s LIMIT :count;

-- name: set_embeddings(ids, embeddings, model)!
UPDATE transcript_chunks AS c SET embedding = given.embedding::vector, embedded_by = :model
FROM unnest(:ids::uuid[], :embeddings::text[]) AS given (id, embedding) WHERE c.id = given.id;
