-- Courses that can be found and sorted, counts that nobody has to count, and the whole rule of who is entitled.

-- What is read of a text when words are looked for or titles sorted: without accents, in one case, in one Unicode form,
-- so that "café", "CAFE" and a full-width "ｃａｆｅ" are the same word. (The database's own locale may know ASCII alone.)
CREATE FUNCTION folded(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT lower(normalize(regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]', '', 'g'), NFKC) COLLATE pg_c_utf8)
$$;

-- The words of a text as they stand (any language) and by their English stems, so that "query" finds "queries".
CREATE FUNCTION words_of(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('simple', folded(given)) || to_tsvector('english', folded(given))
$$;

-- What a person types: words, "phrases", or, -not. Either way of reading them is enough.
CREATE FUNCTION wanted_words(typed text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT websearch_to_tsquery('simple', folded(typed)) || websearch_to_tsquery('english', folded(typed))
$$;

ALTER TABLE courses
    ADD COLUMN words tsvector NOT NULL
        GENERATED ALWAYS AS (setweight(words_of(title), 'A') || setweight(words_of(description), 'C')) STORED,
    -- As much as a page's cursor should carry; what begins alike is ordered by id.
    ADD COLUMN sort_title text COLLATE "C" NOT NULL GENERATED ALWAYS AS (left(folded(title), 64)) STORED;
DROP INDEX courses_published_idx;
CREATE INDEX courses_words_idx ON courses USING gin (words);
CREATE INDEX courses_newest_idx ON courses (status, id DESC);
CREATE INDEX courses_title_idx ON courses (status, sort_title, id);
CREATE INDEX courses_price_idx ON courses (status, price, id);

-- -- counts ---------------------------------------------------------------------------------------------------------
-- In a table of their own: a course's row is neither locked nor changed when somebody enrols. Whoever changes a course,
-- a lecture and these takes them in this order.

CREATE TABLE course_counts (
    course_id uuid PRIMARY KEY REFERENCES courses ON DELETE CASCADE,
    lecture_count integer NOT NULL DEFAULT 0,
    -- Enrolments with `is_active`, those past `expires_at` included.
    active_count integer NOT NULL DEFAULT 0,
    duration_ms bigint NOT NULL DEFAULT 0
);
CREATE INDEX course_counts_popular_idx ON course_counts (active_count DESC, course_id DESC);
CREATE INDEX enrollments_expiring_idx ON enrollments (course_id, expires_at) WHERE is_active AND expires_at IS NOT NULL;

-- Where a lecture ends, kept: its own duration, else its video's; NULL when neither is known.
ALTER TABLE lectures ADD COLUMN end_ms integer;

CREATE FUNCTION video_end_ms(lecture uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT nullif(round(v.duration_seconds * 1000), 0)::integer FROM videos AS v
    WHERE v.lecture_id = lecture AND v.duration_seconds IS NOT NULL
    ORDER BY (v.status = 'ready') DESC, v.id DESC LIMIT 1
$$;

UPDATE lectures SET end_ms = coalesce(nullif(duration, 0) * 1000, video_end_ms(id));

-- Whatever is written to `end_ms` is ignored. The row is locked by then and the statement below sees what others have
-- committed, so the last one to change one of a lecture's videos has seen them all.
CREATE FUNCTION set_end_ms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.end_ms := coalesce(nullif(NEW.duration, 0) * 1000, video_end_ms(NEW.id));
    RETURN NEW;
END $$;
CREATE TRIGGER set_end_ms BEFORE INSERT OR UPDATE OF duration, end_ms ON lectures
    FOR EACH ROW EXECUTE FUNCTION set_end_ms();

CREATE FUNCTION note_video_length() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE lectures SET end_ms = NULL WHERE id = coalesce(NEW.lecture_id, OLD.lecture_id);
    RETURN NULL;
END $$;
CREATE TRIGGER note_video_length AFTER INSERT OR DELETE ON videos
    FOR EACH ROW EXECUTE FUNCTION note_video_length();
CREATE TRIGGER note_changed_video_length AFTER UPDATE ON videos
    FOR EACH ROW WHEN ((OLD.duration_seconds, OLD.status) IS DISTINCT FROM (NEW.duration_seconds, NEW.status))
    EXECUTE FUNCTION note_video_length();

CREATE FUNCTION count_course() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO course_counts (course_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER count_course AFTER INSERT ON courses FOR EACH ROW EXECUTE FUNCTION count_course();

CREATE FUNCTION count_lectures() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE course_counts
    SET lecture_count = lecture_count + (NEW.id IS NOT NULL)::integer - (OLD.id IS NOT NULL)::integer,
        duration_ms = duration_ms + coalesce(NEW.end_ms, 0) - coalesce(OLD.end_ms, 0)
    WHERE course_id = coalesce(NEW.course_id, OLD.course_id);
    RETURN NULL;
END $$;
CREATE TRIGGER count_lectures AFTER INSERT OR DELETE ON lectures FOR EACH ROW EXECUTE FUNCTION count_lectures();
CREATE TRIGGER count_changed_lectures AFTER UPDATE ON lectures
    FOR EACH ROW WHEN (OLD.end_ms IS DISTINCT FROM NEW.end_ms) EXECUTE FUNCTION count_lectures();

CREATE FUNCTION count_enrollments() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE course_counts
    SET active_count = active_count + coalesce(NEW.is_active, false)::integer - coalesce(OLD.is_active, false)::integer
    WHERE course_id = coalesce(NEW.course_id, OLD.course_id);
    RETURN NULL;
END $$;
CREATE TRIGGER count_enrollments AFTER INSERT OR DELETE ON enrollments
    FOR EACH ROW EXECUTE FUNCTION count_enrollments();
CREATE TRIGGER count_changed_enrollments AFTER UPDATE ON enrollments
    FOR EACH ROW WHEN (OLD.is_active <> NEW.is_active) EXECUTE FUNCTION count_enrollments();

INSERT INTO course_counts (course_id, lecture_count, active_count, duration_ms)
SELECT
    c.id,
    (SELECT count(*) FROM lectures AS l WHERE l.course_id = c.id),
    (SELECT count(*) FROM enrollments AS e WHERE e.course_id = c.id AND e.is_active),
    (SELECT coalesce(sum(l.end_ms), 0) FROM lectures AS l WHERE l.course_id = c.id)
FROM courses AS c;

CREATE OR REPLACE FUNCTION lecture_end_ms(lecture uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT end_ms FROM lectures WHERE id = lecture
$$;

DROP VIEW shown_lectures;
CREATE VIEW shown_lectures AS
SELECT
    l.id, l.course_id, l.title, l.description, l.video_url,
    coalesce(round(l.end_ms / 1000.0)::integer, l.duration) AS duration,
    l.sequence_order, l.is_preview, l.created_at, l.updated_at
FROM lectures AS l;

-- `enrolled_count` leaves out those whose time is over: an index holds nothing but enrolments that end.
DROP VIEW shown_courses;
CREATE VIEW shown_courses AS
SELECT
    c.id, c.creator_id, c.title, c.description, c.thumbnail_url, c.price, c.currency, c.is_free, c.status,
    c.created_at, c.updated_at,
    n.lecture_count,
    n.active_count - (
        SELECT count(*) FROM enrollments AS e WHERE e.course_id = c.id AND e.is_active AND e.expires_at <= now()
    )::integer AS enrolled_count,
    round(n.duration_ms / 1000.0)::integer AS duration
FROM courses AS c JOIN course_counts AS n ON n.course_id = c.id;

-- The courses that a list is cut from: published ones are everybody's, others their creator's and an admin's. NULL is no
-- wish. (Written so that Postgres puts it into the query that asks, with that query's order and indexes.)
CREATE FUNCTION find_courses(
    viewer uuid, viewer_role text, wanted_status text, creator uuid, free boolean, typed text
) RETURNS SETOF courses LANGUAGE sql STABLE AS $$
    SELECT * FROM courses AS c
    WHERE c.status = wanted_status
      AND (wanted_status = 'published' OR c.creator_id = viewer OR viewer_role = 'admin')
      AND (creator IS NULL OR c.creator_id = creator)
      AND (free IS NULL OR c.is_free = free)
      AND (typed IS NULL OR c.words @@ wanted_words(typed))
$$;

-- -- plans, subscriptions, transactions -----------------------------------------------------------------------------

-- The setting `plans`, as the last process that started had it. One that is offered no more goes on for its subscribers.
CREATE TABLE plans (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    plan_name text NOT NULL CONSTRAINT plans_plan_name_key UNIQUE,
    monthly numeric(8, 2) NOT NULL CONSTRAINT plans_monthly CHECK (monthly BETWEEN 0.50 AND 999999.99),
    yearly numeric(8, 2) NOT NULL CONSTRAINT plans_yearly CHECK (yearly BETWEEN 0.50 AND 999999.99),
    currency text NOT NULL CONSTRAINT plans_currency CHECK (currency ~ '^[a-z]{3}$'),
    covers_all boolean NOT NULL,
    -- `payments.past_due_days`: how long a subscription that could not be charged keeps access.
    past_due_days integer NOT NULL CONSTRAINT plans_past_due_days CHECK (past_due_days >= 0),
    is_offered boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE plan_courses (
    plan_id uuid NOT NULL REFERENCES plans ON DELETE CASCADE,
    course_id uuid NOT NULL REFERENCES courses ON DELETE CASCADE,
    PRIMARY KEY (plan_id, course_id)
);
CREATE INDEX plan_courses_course_id_idx ON plan_courses (course_id);

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    plan_id uuid NOT NULL REFERENCES plans ON DELETE RESTRICT,
    status text NOT NULL DEFAULT 'incomplete'
        CONSTRAINT subscriptions_status CHECK (status IN ('incomplete', 'active', 'past_due', 'canceled')),
    billing_period text NOT NULL CONSTRAINT subscriptions_billing_period CHECK (billing_period IN ('monthly', 'yearly')),
    price numeric(8, 2) NOT NULL CONSTRAINT subscriptions_price CHECK (price BETWEEN 0.50 AND 999999.99),
    currency text NOT NULL CONSTRAINT subscriptions_currency CHECK (currency ~ '^[a-z]{3}$'),
    current_period_end timestamptz,
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    canceled_at timestamptz,
    past_due_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_active_until CHECK (status <> 'active' OR current_period_end IS NOT NULL),
    CONSTRAINT subscriptions_past_due_since CHECK ((status = 'past_due') = (past_due_since IS NOT NULL))
);
CREATE INDEX subscriptions_user_id_idx ON subscriptions (user_id);
CREATE INDEX subscriptions_plan_id_idx ON subscriptions (plan_id);
CREATE UNIQUE INDEX subscriptions_live_key ON subscriptions (user_id) WHERE status IN ('active', 'past_due');

CREATE TABLE transactions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    course_id uuid REFERENCES courses ON DELETE RESTRICT,
    subscription_id uuid REFERENCES subscriptions ON DELETE RESTRICT,
    amount numeric(8, 2) NOT NULL CONSTRAINT transactions_amount CHECK (amount BETWEEN 0.50 AND 999999.99),
    currency text NOT NULL CONSTRAINT transactions_currency CHECK (currency ~ '^[a-z]{3}$'),
    status text NOT NULL DEFAULT 'pending' CONSTRAINT transactions_status CHECK (status IN (
        'pending', 'requires_action', 'succeeded', 'failed', 'canceled', 'partially_refunded', 'refunded', 'disputed')),
    refunded_amount numeric(8, 2) NOT NULL DEFAULT 0
        CONSTRAINT transactions_refunded_amount CHECK (refunded_amount BETWEEN 0 AND amount),
    transaction_reference text,
    failure_code text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transactions_subject CHECK (num_nonnulls(course_id, subscription_id) = 1)
);
CREATE INDEX transactions_user_id_idx ON transactions (user_id, id DESC);
CREATE INDEX transactions_course_id_idx ON transactions (course_id);
CREATE INDEX transactions_subscription_id_idx ON transactions (subscription_id);

CREATE TRIGGER set_updated_at BEFORE UPDATE ON plans FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER set_updated_at BEFORE UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER set_updated_at BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- -- rights ---------------------------------------------------------------------------------------------------------

-- Until when a subscription gives access by itself: to its period's end, and `past_due_days` longer while a charge is
-- still being tried (one that is not to be renewed ends with its period).
CREATE VIEW live_subscriptions AS
SELECT
    s.id, s.user_id, s.plan_id,
    CASE WHEN s.status = 'past_due' THEN s.past_due_since ELSE s.current_period_end END
        + CASE WHEN s.status = 'active' AND s.cancel_at_period_end THEN interval '0'
               ELSE make_interval(days => p.past_due_days) END AS gives_until
FROM subscriptions AS s JOIN plans AS p ON p.id = s.plan_id
WHERE s.status IN ('active', 'past_due');

-- Until when the user's subscriptions cover the course; NULL when none does now.
CREATE FUNCTION covered_until(viewer uuid, course uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT max(s.gives_until)
    FROM live_subscriptions AS s JOIN plans AS p ON p.id = s.plan_id
    WHERE s.user_id = viewer AND s.gives_until > now()
      AND (p.covers_all OR EXISTS (SELECT 1 FROM plan_courses WHERE plan_id = p.id AND course_id = course))
$$;

-- What an enrolment with the source `purchase` stands on.
ALTER TABLE enrollments ADD COLUMN transaction_id uuid REFERENCES transactions ON DELETE RESTRICT;
CREATE INDEX enrollments_transaction_id_idx ON enrollments (transaction_id);
CREATE OR REPLACE VIEW shown_enrollments AS
SELECT
    e.user_id, e.course_id, e.source, e.enrolled_at, e.expires_at, e.is_active, e.created_at, e.updated_at,
    e.transaction_id, (course_progress(e.user_id, e.course_id)).percent AS progress
FROM enrollments AS e;

-- The transaction by which the user paid for the course and did not get all of it back; NULL when there is none.
CREATE FUNCTION purchase_of(viewer uuid, course uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT id FROM transactions
    WHERE user_id = viewer AND course_id = course AND status IN ('succeeded', 'partially_refunded', 'disputed')
    ORDER BY id DESC LIMIT 1
$$;

-- An enrolment by subscription lasts as long as what covers it: it is renewed, and ends, with the subscription.
CREATE FUNCTION note_cover() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE enrollments SET expires_at = coalesce(covered_until(user_id, course_id), now())
    WHERE user_id = NEW.user_id AND source = 'subscription' AND is_active;
    RETURN NULL;
END $$;
CREATE TRIGGER note_cover AFTER INSERT OR UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION note_cover();

-- The one rule of access that every domain asks: admin, owner, actively enrolled, or covered by a live subscription,
-- which opens published courses alone (nobody else's drafts; archived ones stay with those enrolled).
CREATE OR REPLACE FUNCTION entitled(viewer uuid, viewer_role text, course uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(viewer_role = 'admin', false)
        OR EXISTS (SELECT 1 FROM courses WHERE id = course AND creator_id = viewer)
        OR EXISTS (SELECT 1 FROM enrollments
                   WHERE user_id = viewer AND course_id = course AND is_active
                     AND (expires_at IS NULL OR expires_at > now()))
        OR EXISTS (SELECT 1 FROM courses
                   WHERE id = course AND status = 'published' AND covered_until(viewer, course) IS NOT NULL)
$$;
