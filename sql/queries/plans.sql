-- name: lock_plans()!
-- Processes that start at once take their turns.
LOCK TABLE plans IN SHARE ROW EXCLUSIVE MODE;

-- name: offer_plan(plan_name, monthly, yearly, currency, covers_all)$
-- One that is as it was is not touched: its `updated_at` is shown.
WITH offered AS (
    INSERT INTO plans AS p (plan_name, monthly, yearly, currency, covers_all, past_due_days)
    VALUES (:plan_name, :monthly, :yearly, :currency, :covers_all, 0)
    ON CONFLICT (plan_name) DO UPDATE
    SET monthly = EXCLUDED.monthly, yearly = EXCLUDED.yearly, currency = EXCLUDED.currency,
        covers_all = EXCLUDED.covers_all, is_offered = true
    WHERE (p.monthly, p.yearly, p.currency, p.covers_all, p.is_offered)
        <> (EXCLUDED.monthly, EXCLUDED.yearly, EXCLUDED.currency, EXCLUDED.covers_all, true)
    RETURNING id
)
SELECT id FROM offered UNION ALL SELECT id FROM plans WHERE plan_name = :plan_name LIMIT 1;

-- name: set_past_due_days(past_due_days)!
-- Of all plans, those that are offered no more too.
UPDATE plans SET past_due_days = :past_due_days WHERE past_due_days <> :past_due_days;

-- name: drop_plan_courses(plan_id, course_ids)!
DELETE FROM plan_courses WHERE plan_id = :plan_id AND course_id <> ALL(:course_ids::uuid[]);

-- name: add_plan_courses(plan_id, course_ids)!
-- Those that there are.
INSERT INTO plan_courses (plan_id, course_id) SELECT :plan_id, c.id FROM courses AS c WHERE c.id = ANY(:course_ids::uuid[])
ON CONFLICT (plan_id, course_id) DO UPDATE SET course_id = EXCLUDED.course_id;

-- name: withdraw_plans(offered)!
-- What is offered no more stays for those who subscribed to it.
UPDATE plans SET is_offered = false WHERE is_offered AND plan_name <> ALL(:offered::text[]);
