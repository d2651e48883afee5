-- name: insert_entry(actor_id, action, subject, subject_id, details, request_id)!
INSERT INTO audit_log (actor_id, action, subject, subject_id, details, request_id)
VALUES (:actor_id, :action, :subject, :subject_id, :details, :request_id);

-- name: list_entries(count)
SELECT a.created_at, u.username AS actor, a.action, a.subject, a.subject_id, a.details
FROM audit_log AS a LEFT JOIN users AS u ON u.id = a.actor_id
ORDER BY a.id DESC LIMIT :count;
