-- Forums: topics of a course, their posts, and what each reader has read of them.

-- So that a topic's lecture is one of its course, whatever anybody writes.
ALTER TABLE lectures ADD CONSTRAINT lectures_course_id_id_key UNIQUE (course_id, id);

CREATE TABLE forum_topics (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    course_id uuid NOT NULL REFERENCES courses ON DELETE CASCADE,
    creator_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    title text NOT NULL CONSTRAINT forum_topics_title_length CHECK (length(title) BETWEEN 1 AND 200),
    lecture_id uuid,
    -- The second of the lecture that it is about. It says nothing once the lecture is gone.
    position_ms integer CONSTRAINT forum_topics_position CHECK (position_ms BETWEEN 0 AND 1000000000),
    is_pinned boolean NOT NULL DEFAULT false,
    is_locked boolean NOT NULL DEFAULT false,
    -- Kept by a trigger: posts that were not deleted, and when the last of them came (the topic itself where all were).
    post_count integer NOT NULL DEFAULT 0,
    last_post_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    words tsvector NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT forum_topics_lecture_id_fkey FOREIGN KEY (course_id, lecture_id) REFERENCES lectures (course_id, id)
        ON DELETE SET NULL (lecture_id)
);
CREATE INDEX forum_topics_active_idx ON forum_topics (course_id, is_pinned DESC, last_post_at DESC, id DESC);
CREATE INDEX forum_topics_recent_idx ON forum_topics (course_id, last_post_at);
CREATE INDEX forum_topics_lecture_id_idx ON forum_topics (course_id, lecture_id);
CREATE INDEX forum_topics_creator_id_idx ON forum_topics (creator_id);
CREATE INDEX forum_topics_words_idx ON forum_topics USING gin (words);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON forum_topics FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- Posts are made under the lock of their topic's row: their ids are in the order in which they can be seen. A deleted one
-- stays in its place without its words.
CREATE TABLE forum_posts (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    topic_id uuid NOT NULL REFERENCES forum_topics ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    content text NOT NULL CONSTRAINT forum_posts_content_length CHECK (length(content) <= 20000),
    is_solution boolean NOT NULL DEFAULT false,
    edited_at timestamptz,
    deleted_at timestamptz,
    words tsvector NOT NULL GENERATED ALWAYS AS (setweight(words_of(content), 'C')) STORED,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT forum_posts_deleted CHECK ((deleted_at IS NULL OR NOT is_solution) AND (content = '') = (deleted_at IS NOT NULL))
);
CREATE INDEX forum_posts_topic_id_idx ON forum_posts (topic_id, id) INCLUDE (user_id, deleted_at);
CREATE INDEX forum_posts_user_id_idx ON forum_posts (user_id);
CREATE UNIQUE INDEX forum_posts_solution_key ON forum_posts (topic_id) WHERE is_solution;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON forum_posts FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- Up to which post somebody has read a topic.
CREATE TABLE forum_reads (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    topic_id uuid NOT NULL REFERENCES forum_topics ON DELETE CASCADE,
    last_read_id uuid NOT NULL,
    read_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, topic_id)
);
CREATE INDEX forum_reads_topic_id_idx ON forum_reads (topic_id);

-- What a topic is found by: its title, and as many of its first posts as make no monster of it (a tsvector ends at 1 MB).
CREATE FUNCTION topic_words(topic uuid, title text) RETURNS tsvector LANGUAGE plpgsql STABLE AS $$
DECLARE
    known tsvector := setweight(words_of(title), 'A');
    more tsvector;
BEGIN
    FOR more IN
        SELECT setweight(words, 'C') FROM forum_posts WHERE topic_id = topic AND deleted_at IS NULL ORDER BY id LIMIT 500
    LOOP
        EXIT WHEN pg_column_size(known) + pg_column_size(more) > 500000;
        known := known || more;
    END LOOP;
    RETURN known;
END $$;

CREATE FUNCTION set_topic_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.words := topic_words(NEW.id, NEW.title);
    RETURN NEW;
END $$;
CREATE TRIGGER set_topic_words BEFORE INSERT ON forum_topics FOR EACH ROW EXECUTE FUNCTION set_topic_words();
CREATE TRIGGER set_changed_topic_words BEFORE UPDATE ON forum_topics
    FOR EACH ROW WHEN (OLD.title <> NEW.title) EXECUTE FUNCTION set_topic_words();

CREATE FUNCTION note_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE forum_topics AS t SET
        post_count = post_count + 1,
        last_post_at = greatest(last_post_at, NEW.created_at),
        words = CASE WHEN post_count < 500 AND pg_column_size(t.words || '') + pg_column_size(NEW.words || '') <= 500000
                     THEN t.words || NEW.words ELSE t.words END
    WHERE id = NEW.topic_id;
    RETURN NULL;
END $$;
CREATE TRIGGER note_post AFTER INSERT ON forum_posts FOR EACH ROW EXECUTE FUNCTION note_post();

CREATE FUNCTION note_changed_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE forum_topics AS t SET
        post_count = (SELECT count(*) FROM forum_posts WHERE topic_id = t.id AND deleted_at IS NULL),
        last_post_at = coalesce(
            (SELECT created_at FROM forum_posts WHERE topic_id = t.id AND deleted_at IS NULL ORDER BY id DESC LIMIT 1),
            t.created_at),
        words = topic_words(t.id, t.title)
    WHERE id = NEW.topic_id;
    RETURN NULL;
END $$;
CREATE TRIGGER note_changed_post AFTER UPDATE ON forum_posts
    FOR EACH ROW WHEN (OLD.content <> NEW.content) EXECUTE FUNCTION note_changed_post();

-- When a topic was active last, as one saw it at that time.
CREATE FUNCTION active_at(topic forum_topics, as_of timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN topic.last_post_at <= as_of THEN topic.last_post_at ELSE coalesce(
        (SELECT max(created_at) FROM forum_posts
         WHERE topic_id = topic.id AND deleted_at IS NULL AND created_at <= as_of), topic.created_at) END
$$;

-- Posts of others that the viewer has not read.
CREATE FUNCTION unread_posts(viewer uuid, topic uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM forum_posts
    WHERE topic_id = topic AND deleted_at IS NULL AND user_id <> viewer
      AND id > coalesce((SELECT last_read_id FROM forum_reads WHERE user_id = viewer AND topic_id = topic),
                        '00000000-0000-0000-0000-000000000000')
$$;

CREATE FUNCTION has_unread(viewer uuid, topic uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM forum_posts
        WHERE topic_id = topic AND deleted_at IS NULL AND user_id <> viewer
          AND id > coalesce((SELECT last_read_id FROM forum_reads WHERE user_id = viewer AND topic_id = topic),
                            '00000000-0000-0000-0000-000000000000'))
$$;

-- The topics that a list is cut from; NULL is no wish.
CREATE FUNCTION find_topics(
    viewer uuid, course uuid, lecture uuid, solved boolean, unread boolean, typed text
) RETURNS SETOF forum_topics LANGUAGE sql STABLE AS $$
    SELECT * FROM forum_topics AS t
    WHERE t.course_id = course
      AND (lecture IS NULL OR t.lecture_id = lecture)
      AND (solved IS NULL OR solved = EXISTS (SELECT 1 FROM forum_posts WHERE topic_id = t.id AND is_solution))
      AND (unread IS NULL OR unread = has_unread(viewer, t.id))
      AND (typed IS NULL OR t.words @@ wanted_words(typed))
$$;

-- Somebody who left has no name.
CREATE VIEW shown_topics AS
SELECT
    t.id, t.course_id, t.creator_id, CASE WHEN u.erased_at IS NULL THEN u.username END AS username, t.title, t.lecture_id,
    CASE WHEN t.lecture_id IS NOT NULL THEN t.position_ms / 1000.0::double precision END AS position,
    t.is_pinned, t.is_locked, s.id AS solved_post_id, t.post_count, t.last_post_at, t.created_at, t.updated_at
FROM forum_topics AS t
JOIN users AS u ON u.id = t.creator_id
LEFT JOIN forum_posts AS s ON s.topic_id = t.id AND s.is_solution;

CREATE VIEW shown_posts AS
SELECT
    p.id, p.topic_id, p.user_id, CASE WHEN u.erased_at IS NULL THEN u.username END AS username,
    CASE WHEN u.erased_at IS NULL THEN u.avatar_url END AS avatar_url, p.user_id = c.creator_id AS by_course_owner,
    p.content, p.is_solution, p.edited_at, p.deleted_at, p.created_at, p.updated_at
FROM forum_posts AS p
JOIN users AS u ON u.id = p.user_id
JOIN forum_topics AS t ON t.id = p.topic_id
JOIN courses AS c ON c.id = t.course_id;
