-- name: insert_job(kind, payload, in_s)$
INSERT INTO jobs (kind, payload, run_at) VALUES (:kind, :payload, now() + make_interval(secs => :in_s)) RETURNING id;

-- name: claim_jobs(kinds, count, lease_s)
-- Those that are due, each to one process for the lease; should that one die, it is due again. In an array, for that is
-- asked for once: a join may ask anew for each row, and is given other jobs each time.
UPDATE jobs SET attempts = attempts + 1, run_at = clock_timestamp() + make_interval(secs => :lease_s)
WHERE id = ANY (ARRAY(
    SELECT id FROM jobs
    WHERE dead_at IS NULL AND run_at <= clock_timestamp() AND kind = ANY (:kinds::text[])
    ORDER BY run_at LIMIT :count FOR UPDATE SKIP LOCKED))
RETURNING id, kind, payload, attempts, extract(epoch FROM clock_timestamp() - created_at)::double precision AS age_s;

-- name: finish_job(job_id, attempts)!
-- Unless the lease ran out and somebody else has it.
DELETE FROM jobs WHERE id = :job_id AND attempts = :attempts;

-- name: postpone_job(job_id, attempts, in_s, error, is_dead)!
UPDATE jobs SET
    run_at = clock_timestamp() + make_interval(secs => :in_s), error = :error,
    dead_at = CASE WHEN :is_dead THEN clock_timestamp() END
WHERE id = :job_id AND attempts = :attempts;

-- name: repeat_job(job_id, attempts, in_s, error)!
-- As if it had not been tried.
UPDATE jobs SET attempts = attempts - 1, run_at = clock_timestamp() + make_interval(secs => :in_s), error = :error
WHERE id = :job_id AND attempts = :attempts;

-- name: hurry_job(job_id)!
UPDATE jobs SET run_at = clock_timestamp() WHERE id = :job_id AND attempts = 0;

-- name: list_jobs(only_dead, count)
SELECT id, kind, payload, attempts, run_at, error, dead_at, created_at FROM jobs
WHERE dead_at IS NOT NULL OR NOT :only_dead ORDER BY id DESC LIMIT :count;

-- name: list_dead_jobs(before, count)
SELECT id, kind, payload, attempts, error, dead_at, created_at, updated_at FROM jobs
WHERE dead_at IS NOT NULL AND (:before::uuid IS NULL OR id < :before) ORDER BY id DESC LIMIT :count;

-- name: retry_jobs(job_id)!
-- One, or all that are dead: at once, with all their attempts before them.
UPDATE jobs SET attempts = 0, run_at = now(), dead_at = NULL
WHERE (:job_id::uuid IS NULL AND dead_at IS NOT NULL) OR id = :job_id;
