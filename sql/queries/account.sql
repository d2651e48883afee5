-- What somebody does about their own account.

-- name: get_own_account(user_id, network, known_days)^
-- With what checking the password needs.
SELECT u.*, EXISTS (
    SELECT FROM sign_in_addresses AS a
    WHERE a.user_id = u.id AND a.network = :network::text::cidr AND a.seen_at > now() - make_interval(days => :known_days)
) AS known_here
FROM users AS u WHERE u.id = :user_id AND u.erased_at IS NULL;

-- name: set_avatar(user_id, file_id)!
-- None when there is no such picture of the user's; `avatar_url` follows.
UPDATE users SET avatar_file_id = :file_id
WHERE id = :user_id AND (:file_id::uuid IS NULL OR may_show_picture(:user_id, :file_id));

-- name: change_account(user_id, username, email)^
-- What is NULL stays. Another address has to be verified anew.
UPDATE users SET
    username = coalesce(:username, username),
    email = coalesce(:email, email),
    email_verified = email_verified AND (:email::text IS NULL OR name_key(:email) = name_key(email))
WHERE id = :user_id RETURNING *;

-- name: change_password(user_id, before, password_hash)^
-- None when somebody else changed it meanwhile. Tokens of before end.
UPDATE users SET password_hash = :password_hash, ver = ver + 1
WHERE id = :user_id AND password_hash = :before AND erased_at IS NULL RETURNING *;

-- name: end_families(user_id, but_for)!
-- Signed out everywhere but in this family's own place; everywhere when that is NULL.
DELETE FROM refresh_tokens WHERE user_id = :user_id AND family_id IS DISTINCT FROM :but_for::uuid;

-- name: forget_resets(user_id)!
-- Links that were sent before the change set no password any more.
UPDATE mail_tokens SET used_at = now() WHERE user_id = :user_id AND purpose = 'reset' AND used_at IS NULL;

-- name: erase_account(user_id)!
-- Nothing in the row says who it was; name and address are free again. Its new ones are such that nobody can have taken
-- them before (a blank, a host without a dot). Nobody can sign in to it: '' is no hash. Who leaves twice left the first time.
UPDATE users SET
    username = 'erased ' || id, email = id || '@erased', password_hash = '', role = 'student', ver = ver + 1,
    email_verified = false, avatar_url = NULL, avatar_file_id = NULL, erased_at = now()
WHERE id = :user_id AND erased_at IS NULL;

-- name: give_back_late_payments(user_id)
-- What was noted as paid while its user left, and could not be known to be too late then.
SELECT give_back(t, 'account deleted') FROM transactions AS t JOIN users AS u ON u.id = t.user_id
WHERE t.user_id = :user_id AND is_paid(t.status)
  AND u.erased_at < CASE WHEN t.subscription_id IS NULL THEN t.succeeded_at ELSE t.created_at END
  AND NOT EXISTS (SELECT 1 FROM refunds AS r WHERE r.transaction_id = t.id AND r.reason = 'account deleted');
