-- Conversations with the tutor: turns, what was said, what it took.

-- name: lock_account(user_id)$
-- The number of the user's newest turn; until the transaction ends nobody begins another.
INSERT INTO chat_accounts (user_id) VALUES (:user_id)
ON CONFLICT (user_id) DO UPDATE SET last_turn = chat_accounts.last_turn
RETURNING last_turn;

-- name: get_newest(user_id, alive_s)^
-- The number of the user's newest turn, and the one that runs (NULLs: none). Both in one statement: between two another
-- device may begin one.
SELECT a.last_turn, t.id, t.number, t.client_msg_id,
       EXISTS (SELECT 1 FROM processes AS p
               WHERE p.id = t.owner AND p.seen_at > now() - make_interval(secs => :alive_s)) AS owner_alive
FROM chat_accounts AS a LEFT JOIN chat_turns AS t ON t.user_id = a.user_id AND t.status = 'running'
WHERE a.user_id = :user_id;

-- name: get_turn_by_message(user_id, client_msg_id, alive_s)^
-- The turn that a message is, and whether the process is alive that ran it.
SELECT t.id, t.number, t.question, t.conversation_id, t.status, t.owner,
       EXISTS (SELECT 1 FROM processes AS p
               WHERE p.id = t.owner AND p.seen_at > now() - make_interval(secs => :alive_s)) AS owner_alive
FROM chat_turns AS t WHERE t.user_id = :user_id AND t.client_msg_id = :client_msg_id;

-- name: free_message_id(user_id, client_msg_id, kept_s)$
-- Have a turn that has ended give its id up, if it may be asked again or is older than `kept_s`; its number where it failed.
UPDATE chat_turns SET client_msg_id = client_msg_id || ':' || number
WHERE user_id = :user_id AND client_msg_id = :client_msg_id
  AND (status = 'failed' AND retryable OR status <> 'running' AND created_at < now() - make_interval(secs => :kept_s))
RETURNING CASE WHEN status = 'failed' THEN number END;

-- name: list_newest(user_ids)
-- The numbers of these users' newest turns.
SELECT user_id, last_turn FROM chat_accounts WHERE user_id = ANY (:user_ids::uuid[]);

-- name: get_running(user_id, alive_s)^
-- The turn that runs, and whether the process that runs it is alive.
SELECT t.id, t.number, t.owner,
       EXISTS (SELECT 1 FROM processes AS p
               WHERE p.id = t.owner AND p.seen_at > now() - make_interval(secs => :alive_s)) AS owner_alive
FROM chat_turns AS t WHERE t.user_id = :user_id AND t.status = 'running';

-- name: get_turn(user_id, number)^
-- A turn with the answer that it gave, if it gave one.
SELECT t.id, t.number, t.client_msg_id, t.conversation_id, t.status, t.code, t.retryable, t.source, t.chunks, t.question,
       t.course_id, t.lecture_id, t.position_ms, t.prompt_tokens, t.completion_tokens, m.id AS message_id,
       m.message AS text, m.citations, m.recommendations
FROM chat_turns AS t LEFT JOIN chat_messages AS m ON m.turn_id = t.id AND NOT m.is_user
WHERE t.user_id = :user_id AND t.number = :number;

-- name: get_watched(session_id, user_id)^
-- Where one of the user's own sessions stands.
SELECT s.lecture_id, l.course_id, s.state, s.last_seq, s.last_sub, s.resume_ms
FROM video_sessions AS s JOIN lectures AS l ON l.id = s.lecture_id
WHERE s.id = :session_id AND s.user_id = :user_id;

-- name: get_visible_course(course_id, viewer_id, viewer_role)$
SELECT id FROM courses WHERE id = :course_id AND may_see(:viewer_id, :viewer_role, id, status);

-- name: touch_conversation(conversation_id, user_id)$
UPDATE conversations SET updated_at = now() WHERE id = :conversation_id AND user_id = :user_id RETURNING id;

-- name: touch_newest_conversation(user_id, idle_s)$
-- The one that goes on, unless it was silent for too long.
UPDATE conversations SET updated_at = now()
WHERE id = (SELECT id FROM conversations WHERE user_id = :user_id ORDER BY updated_at DESC LIMIT 1)
  AND updated_at > now() - make_interval(secs => :idle_s)
RETURNING id;

-- name: insert_conversation(user_id)$
INSERT INTO conversations (user_id) VALUES (:user_id) RETURNING id;

-- name: reserve_tokens(user_id, tokens, most)$
-- Nothing when it would be more than `most` of today.
INSERT INTO chat_usage AS u (user_id, day, tokens)
SELECT :user_id, (now() AT TIME ZONE 'UTC')::date, :tokens::bigint WHERE :tokens::bigint <= :most::bigint
ON CONFLICT (user_id, day) DO UPDATE SET tokens = u.tokens + excluded.tokens
WHERE u.tokens + excluded.tokens <= :most::bigint
RETURNING tokens;

-- name: reserve_spend(micros, most)$
-- Nothing when it would be more than `most` of today.
INSERT INTO chat_spend AS s (day, micros)
SELECT (now() AT TIME ZONE 'UTC')::date, :micros::bigint WHERE :micros::bigint <= :most::bigint
ON CONFLICT (day) DO UPDATE SET micros = s.micros + excluded.micros
WHERE s.micros + excluded.micros <= :most::bigint
RETURNING micros;

-- name: insert_turn(user_id, conversation_id, number, client_msg_id, retry_of, owner, question, course_id, lecture_id, position_ms, reserved_tokens, reserved_micros)^
WITH counted AS (
    UPDATE chat_accounts SET last_turn = :number WHERE user_id = :user_id
)
INSERT INTO chat_turns (user_id, conversation_id, number, client_msg_id, retry_of, owner, question, course_id, lecture_id,
                        position_ms, reserved_tokens, reserved_micros)
VALUES (:user_id, :conversation_id, :number, :client_msg_id, :retry_of, :owner, :question, :course_id, :lecture_id,
        :position_ms, :reserved_tokens, :reserved_micros)
RETURNING id, epoch;

-- name: insert_message(turn_id, message)$
-- What the learner said.
INSERT INTO chat_messages (user_id, conversation_id, turn_id, is_user, message, course_id, lecture_id, position_ms)
SELECT user_id, conversation_id, id, true, :message, course_id, lecture_id, position_ms
FROM chat_turns WHERE id = :turn_id
RETURNING id;

-- name: finish_turn(turn_id, epoch, status, code, retryable, source, chunks, message, citations, recommendations, prompt_tokens, completion_tokens, tokens, micros)$
-- Under the epoch: the answer, and what it took instead of what was reserved (NULL `tokens`: all of that). Nothing for who
-- is not the owner any more. First what the turn belongs to and is about, then the turn, as who deletes one of these comes
-- to it: else the two would wait for each other.
WITH course AS MATERIALIZED (
    SELECT c.id FROM chat_turns AS t JOIN courses AS c ON c.id = t.course_id
    WHERE t.id = :turn_id FOR KEY SHARE OF c
), lecture AS MATERIALIZED (
    SELECT l.id FROM chat_turns AS t JOIN lectures AS l ON l.id = t.lecture_id
    WHERE t.id = :turn_id AND (SELECT count(*) FROM course) >= 0 FOR KEY SHARE OF l
), conversation AS MATERIALIZED (
    SELECT c.id FROM chat_turns AS t JOIN conversations AS c ON c.id = t.conversation_id
    WHERE t.id = :turn_id AND (SELECT count(*) FROM lecture) >= 0 FOR KEY SHARE OF c
), finished AS (
    UPDATE chat_turns
    SET status = :status, code = :code, retryable = :retryable, source = :source, chunks = :chunks,
        prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens
    WHERE id = :turn_id AND epoch = :epoch AND status = 'running' AND EXISTS (SELECT FROM conversation)
    RETURNING *
), told AS (
    INSERT INTO chat_messages (user_id, conversation_id, turn_id, is_user, message, course_id, lecture_id, position_ms,
                               citations, recommendations)
    SELECT user_id, conversation_id, id, false, :message, course_id, lecture_id, position_ms, :citations, :recommendations
    FROM finished WHERE :message <> ''
), used AS (
    UPDATE chat_usage AS u SET tokens = u.tokens - f.reserved_tokens + coalesce(:tokens::bigint, f.reserved_tokens)
    FROM finished AS f WHERE u.user_id = f.user_id AND u.day = f.day AND f.reserved_tokens > 0
), spent AS (
    UPDATE chat_spend AS s SET micros = s.micros - f.reserved_micros + coalesce(:micros::bigint, f.reserved_micros)
    FROM finished AS f WHERE s.day = f.day AND f.reserved_micros > 0
)
SELECT id FROM finished;

-- name: ask_stop(user_id, client_msg_id)$
UPDATE chat_turns SET stop_asked = true
WHERE user_id = :user_id AND client_msg_id = :client_msg_id AND status = 'running'
RETURNING id;

-- name: list_standing(ids)
-- Where turns stand that a process believes it runs.
SELECT id, epoch, status, stop_asked FROM chat_turns WHERE id = ANY (:ids::uuid[]);

-- name: claim_orphans(owner, held, as_of, alive_s, user_id, most)
-- Turns that run, and whose process is dead; and those of the caller's own that it does not know of, for it never learned
-- that they began. Of one user, or (NULL) of all. Both as of `as_of`, when the caller itself was seen last: when Postgres
-- hung and comes to this late, all others have been as silent, and some of the caller's own have begun meanwhile.
UPDATE chat_turns AS t
SET epoch = epoch + 1, owner = :owner
WHERE id = ANY (ARRAY(
    SELECT t.id FROM chat_turns AS t
    WHERE t.status = 'running' AND (:user_id::uuid IS NULL OR t.user_id = :user_id) AND (
        t.owner = :owner AND t.id <> ALL (:held::uuid[]) AND t.created_at < :as_of::timestamptz - make_interval(secs => :alive_s)
        OR t.owner <> :owner AND NOT EXISTS (
            SELECT 1 FROM processes AS p
            WHERE p.id = t.owner AND p.seen_at > :as_of::timestamptz - make_interval(secs => :alive_s)))
    ORDER BY t.id LIMIT :most
    FOR UPDATE SKIP LOCKED
))
RETURNING id, user_id, number, epoch;

-- name: list_said(conversation_id, most)
-- Newest first, of turns that were answered: the question is the turn's own, for one that was asked again stands among
-- messages under the turn that failed.
SELECT s.is_user, s.message FROM chat_turns AS t CROSS JOIN LATERAL (
    SELECT true AS is_user, t.question AS message
    UNION ALL
    SELECT false, m.message FROM chat_messages AS m WHERE m.turn_id = t.id AND NOT m.is_user
) AS s
WHERE t.conversation_id = :conversation_id AND t.status IN ('done', 'stopped')
ORDER BY t.number DESC, s.is_user LIMIT :most;

-- name: list_history(user_id, after_id, page_size)
SELECT m.id, m.conversation_id, m.message, m.is_user, m.course_id, m.lecture_id, m.position_ms, m.citations,
       m.recommendations, t.number AS turn, t.status, m.created_at, m.updated_at
FROM chat_messages AS m JOIN chat_turns AS t ON t.id = m.turn_id
WHERE m.user_id = :user_id AND (:after_id::uuid IS NULL OR m.id < :after_id)
ORDER BY m.id DESC LIMIT :page_size;

-- name: has_user(user_id)$
SELECT EXISTS (SELECT 1 FROM users WHERE id = :user_id);

-- name: delete_conversations(user_id)!
DELETE FROM conversations WHERE user_id = :user_id;

-- name: sweep_usage(keep_days, most)!
DELETE FROM chat_usage WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM chat_usage WHERE day < (now() AT TIME ZONE 'UTC')::date - :keep_days::integer
    ORDER BY day LIMIT :most FOR UPDATE SKIP LOCKED));
