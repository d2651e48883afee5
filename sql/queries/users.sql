-- Users, as they see themselves and administrators see and change them. An erased account is nobody's any more and is not
-- found.

-- name: list_users(term, after, count)
-- Newest first; the term is looked for anywhere in the name or address, in any case.
SELECT * FROM users
WHERE erased_at IS NULL
  AND (:after::uuid IS NULL OR id < :after)
  AND (:term::text IS NULL OR strpos(name_key(username), name_key(:term)) > 0 OR strpos(name_key(email), name_key(:term)) > 0)
ORDER BY id DESC LIMIT :count;

-- name: get_user(user_id)^
SELECT * FROM users WHERE id = :user_id AND erased_at IS NULL;

-- name: find_user(login)^
-- A user name never holds an @, so that a login is one or the other.
SELECT * FROM users
WHERE (name_key(username) = name_key(:login) OR name_key(email) = name_key(:login)) AND erased_at IS NULL;

-- name: lock_user(user_id)^
SELECT * FROM users WHERE id = :user_id AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: set_role(user_id, role)^
-- Tokens of before say another role: they end. The last administrator is kept by a trigger.
UPDATE users SET role = :role, ver = ver + 1 WHERE id = :user_id RETURNING *;
