-- What is kept about a person, table by table: `export_<table>` gives it to them, `erase_<table>` takes it from us. A
-- test finds tables that name a user and are missing here.

-- name: export_refresh_tokens(user_id)
SELECT id, family_id, expires_at, used_at, created_at FROM refresh_tokens WHERE user_id = :user_id ORDER BY id;

-- name: erase_refresh_tokens(user_id)!
DELETE FROM refresh_tokens WHERE user_id = :user_id;

-- name: export_mail_tokens(user_id)
SELECT purpose, email, expires_at, used_at, created_at FROM mail_tokens WHERE user_id = :user_id ORDER BY id;

-- name: erase_mail_tokens(user_id)!
DELETE FROM mail_tokens WHERE user_id = :user_id;

-- name: erase_jobs(user_id)!
-- Mails on their way, and those that could not be delivered.
DELETE FROM jobs
WHERE payload ->> 'user_id' = :user_id::uuid::text
   OR name_key(payload ->> 'email') = (SELECT name_key(email) FROM users WHERE id = :user_id);

-- name: export_sign_in_addresses(user_id)
SELECT network::text AS network, seen_at FROM sign_in_addresses WHERE user_id = :user_id ORDER BY seen_at;

-- name: erase_sign_in_addresses(user_id)!
DELETE FROM sign_in_addresses WHERE user_id = :user_id;

-- name: export_audit_log(user_id)
SELECT created_at, action, subject, subject_id, details, actor_id = :user_id AS by_me
FROM audit_log WHERE actor_id = :user_id OR subject_id = :user_id ORDER BY id;

-- name: export_courses(user_id)
SELECT id, title, description, status, price, currency, thumbnail_url, created_at, updated_at
FROM courses WHERE creator_id = :user_id ORDER BY id;

-- name: export_videos(user_id)
SELECT id, lecture_id, title, description, status, visibility, duration_seconds, created_at, updated_at
FROM videos WHERE upload_user_id = :user_id ORDER BY id;

-- name: export_enrollments(user_id)
SELECT course_id, source, enrolled_at, expires_at, is_active, created_at, updated_at
FROM shown_enrollments WHERE user_id = :user_id ORDER BY enrolled_at;

-- name: erase_enrollments(user_id)!
-- The row stays for what was paid; nobody is enrolled by it any more.
UPDATE enrollments SET is_active = false WHERE user_id = :user_id;

-- name: export_subscriptions(user_id)
SELECT s.id, p.plan_name, s.status, s.billing_period, s.price, s.currency, s.current_period_end, s.cancel_at_period_end,
    s.canceled_at, s.created_at, s.updated_at
FROM subscriptions AS s JOIN plans AS p ON p.id = s.plan_id WHERE s.user_id = :user_id ORDER BY s.id;

-- name: export_transactions(user_id)
SELECT id, course_id, subscription_id, payment_method_id, amount, currency, status, refunded_amount,
    transaction_reference, failure_code, created_at, updated_at
FROM transactions WHERE user_id = :user_id ORDER BY id;

-- name: export_refunds(user_id)
-- Of one's payments; those that one asked for as an administrator say no more than `audit_log`.
SELECT r.id, r.transaction_id, r.amount, r.status, r.reason, r.requested_by = :user_id AS by_me, r.created_at, r.updated_at
FROM refunds AS r JOIN transactions AS t ON t.id = r.transaction_id WHERE t.user_id = :user_id ORDER BY r.id;

-- name: export_customers(user_id)
SELECT stripe_id, created_at FROM customers WHERE user_id = :user_id;

-- name: export_payment_methods(user_id)
SELECT id, provider, brand, card_last_four, card_expiry, is_default, created_at, updated_at
FROM payment_methods WHERE user_id = :user_id AND removed_at IS NULL ORDER BY id;

-- name: erase_payment_methods(user_id)!
-- Stripe is told by a job, then the rows go too.
UPDATE payment_methods SET removed_at = now(), is_default = false WHERE user_id = :user_id AND removed_at IS NULL;

-- name: export_progress(user_id)
SELECT lecture_id, position_ms, completed, completed_at, last_watched_at, created_at, updated_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(lower(r), upper(r)) ORDER BY r), '[]') FROM unnest(watched_ranges) AS r)
        AS watched_ranges_ms
FROM progress WHERE user_id = :user_id ORDER BY created_at, lecture_id;

-- name: erase_progress(user_id)!
DELETE FROM progress WHERE user_id = :user_id;

-- name: export_video_sessions(user_id)
SELECT id, video_id, lecture_id, status, state::json AS state, decision::json AS decision, device, viewport,
    connection, save_data, player, created_at, seen_at, ended_at
FROM video_sessions WHERE user_id = :user_id ORDER BY id;

-- name: erase_video_sessions(user_id)!
-- The video's figures keep what was watched, not by whom and on what. A new epoch fences off whoever still holds one.
UPDATE video_sessions SET
    status = 'ended', ended_at = coalesce(ended_at, now()), epoch = epoch + 1, owner = NULL, claimed_by = 'rest',
    device = NULL, player = NULL, connection = NULL, viewport = NULL
WHERE user_id = :user_id;

-- name: export_video_viewers(user_id)
SELECT video_id, day FROM video_viewers WHERE user_id = :user_id AND isfinite(day) ORDER BY day, video_id;

-- name: export_idempotency_keys(user_id)
SELECT key, status, convert_from(body, 'UTF8') AS answer, created_at, expires_at
FROM idempotency_keys WHERE user_id = :user_id ORDER BY created_at;

-- name: erase_idempotency_keys(user_id)!
DELETE FROM idempotency_keys WHERE user_id = :user_id;

-- name: export_files(user_id)
SELECT id, course_id, lecture_id, filename, size_bytes, content_type, purpose, visibility, status, created_at, updated_at
FROM files WHERE owner_id = :user_id ORDER BY id;

-- name: erase_files(user_id)!
-- What is part of a course stays with it.
DELETE FROM files WHERE owner_id = :user_id AND (course_id IS NULL OR status = 'pending');

-- name: export_forum_topics(user_id)
SELECT id, course_id, title, lecture_id, position_ms, is_pinned, is_locked, created_at, updated_at
FROM forum_topics WHERE creator_id = :user_id ORDER BY id;

-- name: export_forum_posts(user_id)
SELECT id, topic_id, content, is_solution, edited_at, deleted_at, created_at, updated_at
FROM forum_posts WHERE user_id = :user_id ORDER BY id;

-- name: export_forum_reads(user_id)
SELECT topic_id, last_read_id, read_at FROM forum_reads WHERE user_id = :user_id ORDER BY read_at;

-- name: export_forum_digests(user_id)
SELECT told_until, created_at FROM forum_digests WHERE user_id = :user_id;

-- name: erase_forum_digests(user_id)!
DELETE FROM forum_digests WHERE user_id = :user_id;

-- name: erase_forum_reads(user_id)!
DELETE FROM forum_reads WHERE user_id = :user_id;

-- name: export_conversations(user_id)
SELECT id, created_at, updated_at FROM conversations WHERE user_id = :user_id ORDER BY id;

-- name: erase_conversations(user_id)!
-- With their turns and messages.
DELETE FROM conversations WHERE user_id = :user_id;

-- name: export_chat_turns(user_id)
SELECT number, conversation_id, client_msg_id, status, code, source, prompt_tokens, completion_tokens, created_at
FROM chat_turns WHERE user_id = :user_id ORDER BY number;

-- name: erase_chat_turns(user_id)!
DELETE FROM chat_turns WHERE user_id = :user_id;

-- name: export_chat_messages(user_id)
SELECT id, conversation_id, is_user, message, course_id, lecture_id, position_ms, citations, recommendations, created_at
FROM chat_messages WHERE user_id = :user_id ORDER BY id;

-- name: erase_chat_messages(user_id)!
-- Conversations are held before their turns go, as who finishes a turn comes to them: else the two would wait for each other.
WITH held AS MATERIALIZED (SELECT id FROM conversations WHERE user_id = :user_id FOR UPDATE)
DELETE FROM chat_messages WHERE user_id = :user_id AND (SELECT count(*) FROM held) >= 0;

-- name: export_chat_usage(user_id)
SELECT day, tokens FROM chat_usage WHERE user_id = :user_id ORDER BY day;

-- name: erase_chat_usage(user_id)!
DELETE FROM chat_usage WHERE user_id = :user_id;

-- name: export_chat_accounts(user_id)
SELECT last_turn FROM chat_accounts WHERE user_id = :user_id;

-- name: erase_chat_accounts(user_id)!
DELETE FROM chat_accounts WHERE user_id = :user_id;
