-- Accounts, courses, lectures, videos, enrolments, progress and the live sessions.
-- Positions and watched ranges are milliseconds; money is NUMERIC in major units.

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- Total length of a multirange, in its own unit.
CREATE FUNCTION covered(ranges int4multirange) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(ranges) AS r
$$;

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    username text NOT NULL CONSTRAINT users_username_length CHECK (length(username) BETWEEN 1 AND 64),
    email text NOT NULL CONSTRAINT users_email_length CHECK (length(email) BETWEEN 3 AND 254),
    password_hash text NOT NULL,
    role text NOT NULL DEFAULT 'student' CONSTRAINT users_role CHECK (role IN ('student', 'instructor', 'admin')),
    ver integer NOT NULL DEFAULT 1,
    email_verified boolean NOT NULL DEFAULT false,
    avatar_url text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_username_key ON users (lower(username));
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE refresh_tokens (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    family_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT refresh_tokens_token_hash_key UNIQUE,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refresh_tokens_user_id_idx ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_family_id_idx ON refresh_tokens (family_id);

CREATE TABLE courses (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    creator_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    title text NOT NULL CONSTRAINT courses_title_length CHECK (length(title) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    thumbnail_url text,
    -- NUMERIC accepts NaN, and NaN is above every number: the upper bound refuses it.
    price numeric(8, 2) NOT NULL DEFAULT 0 CONSTRAINT courses_price CHECK (price = 0 OR price BETWEEN 0.50 AND 999999.99),
    currency text NOT NULL DEFAULT 'usd' CONSTRAINT courses_currency CHECK (currency ~ '^[a-z]{3}$'),
    is_free boolean NOT NULL GENERATED ALWAYS AS (price = 0) STORED,
    status text NOT NULL DEFAULT 'draft' CONSTRAINT courses_status CHECK (status IN ('draft', 'published', 'archived')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX courses_creator_id_idx ON courses (creator_id);
CREATE INDEX courses_published_idx ON courses (id DESC) WHERE status = 'published';

CREATE TABLE lectures (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    course_id uuid NOT NULL REFERENCES courses ON DELETE CASCADE,
    title text NOT NULL CONSTRAINT lectures_title_length CHECK (length(title) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    video_url text,
    duration integer CONSTRAINT lectures_duration CHECK (duration BETWEEN 0 AND 1000000),
    sequence_order integer NOT NULL CONSTRAINT lectures_sequence_order CHECK (sequence_order >= 1),
    is_preview boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Deferrable, so that an insertion may shift the rest in one statement.
    CONSTRAINT lectures_order_key UNIQUE (course_id, sequence_order) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE videos (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    lecture_id uuid NOT NULL REFERENCES lectures ON DELETE CASCADE,
    upload_user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    title text NOT NULL CONSTRAINT videos_title_length CHECK (length(title) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    cloudflare_uid text CONSTRAINT videos_cloudflare_uid_key UNIQUE,
    status text NOT NULL DEFAULT 'pending_upload'
        CONSTRAINT videos_status CHECK (status IN ('pending_upload', 'processing', 'ready', 'error')),
    visibility text NOT NULL DEFAULT 'private'
        CONSTRAINT videos_visibility CHECK (visibility IN ('private', 'preview', 'public')),
    duration_seconds double precision CONSTRAINT videos_duration CHECK (duration_seconds BETWEEN 0 AND 1000000),
    thumbnail_url text,
    error text,
    -- [{"rung", "br" (kbit/s), "width", "height"}] from the manifest, lowest first.
    ladder jsonb,
    segment_s double precision,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX videos_lecture_id_idx ON videos (lecture_id, id DESC);
CREATE INDEX videos_upload_user_id_idx ON videos (upload_user_id);

CREATE TABLE enrollments (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    course_id uuid NOT NULL REFERENCES courses ON DELETE RESTRICT,
    source text NOT NULL CONSTRAINT enrollments_source CHECK (source IN ('free', 'purchase', 'subscription', 'admin', 'own')),
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, course_id)
);
CREATE INDEX enrollments_course_id_idx ON enrollments (course_id);

CREATE TABLE progress (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    lecture_id uuid NOT NULL REFERENCES lectures ON DELETE CASCADE,
    watched_ranges int4multirange NOT NULL DEFAULT '{}',
    position_ms integer NOT NULL DEFAULT 0 CONSTRAINT progress_position CHECK (position_ms >= 0),
    completed boolean NOT NULL DEFAULT false,
    completed_at timestamptz,
    last_watched_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, lecture_id)
);
CREATE INDEX progress_lecture_id_idx ON progress (lecture_id);

-- A hint, never a lock: a process seen within 5 s is alive.
CREATE TABLE processes (
    id uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- state = checkpoint of the session's fold; (last_seq, last_sub) = its cursor in the stream; epoch = the fence.
CREATE TABLE video_sessions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    lecture_id uuid NOT NULL REFERENCES lectures ON DELETE CASCADE,
    status text NOT NULL DEFAULT 'active'
        CONSTRAINT video_sessions_status CHECK (status IN ('active', 'suspended', 'ended')),
    epoch bigint NOT NULL DEFAULT 0,
    owner uuid,
    claimed_by text CONSTRAINT video_sessions_claimed_by CHECK (claimed_by IN ('socket', 'rest', 'reaper')),
    state jsonb NOT NULL DEFAULT '{}',
    last_seq bigint NOT NULL DEFAULT 0,
    last_sub numeric(20) NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    decision jsonb,
    -- What the player said of itself when it made the session, and what it was given.
    device text,
    viewport integer[] CONSTRAINT video_sessions_viewport CHECK (cardinality(viewport) = 2),
    connection text,
    save_data boolean NOT NULL DEFAULT false,
    player text,
    ladder jsonb NOT NULL,
    segment_s double precision NOT NULL,
    resume_ms integer NOT NULL DEFAULT 0,
    -- The last sign of life: creation, a checkpoint that moved it, a socket that opened or closed.
    seen_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX video_sessions_video_id_idx ON video_sessions (video_id);
CREATE INDEX video_sessions_lecture_id_idx ON video_sessions (lecture_id);
CREATE INDEX video_sessions_user_id_idx ON video_sessions (user_id) WHERE status <> 'ended';
CREATE INDEX video_sessions_seen_at_idx ON video_sessions (seen_at) WHERE status <> 'ended';

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['users', 'refresh_tokens', 'courses', 'lectures', 'videos', 'enrollments', 'progress',
                                'video_sessions'] LOOP
        EXECUTE format('CREATE TRIGGER set_updated_at BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION set_updated_at()', name);
    END LOOP;
END $$;

-- The one rule of access that every domain asks: admin, owner, or actively enrolled.
CREATE FUNCTION entitled(viewer uuid, viewer_role text, course uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT viewer_role = 'admin'
        OR EXISTS (SELECT 1 FROM courses WHERE id = course AND creator_id = viewer)
        OR EXISTS (SELECT 1 FROM enrollments
                   WHERE user_id = viewer AND course_id = course AND is_active
                     AND (expires_at IS NULL OR expires_at > now()))
$$;
