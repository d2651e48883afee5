-- Words are found however they are typed in their own language: without the strokes, marks and vowel points that many leave
-- out, and whatever invisible signs a text of Arabic, Hebrew or Hindi has between its letters.

-- As before (0036_typographic_signs.sql), but that Arabic marks, the stretching of words and Hebrew points are no part of a
-- word, nor are joiners and marks of direction; and letters that fall apart in no normal form are those that are typed for
-- them: đ, ł, ø, ı, œ, æ, þ; of Arabic and Persian the ways to write ya, kaf and ta marbuta.
CREATE OR REPLACE FUNCTION folded(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(
        replace(replace(replace(replace(translate(
            lower(normalize(regexp_replace(
                normalize(given, NFKD),
                '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f\u0670'
                '\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]', '', 'g'), NFKC)
                COLLATE pg_c_utf8),
            'ς’‘ʼ“”„«»‐đðłøıħŧىیکة', 'σ''''''"""""-ddloihtييكه'),
            'ß', 'ss'), 'œ', 'oe'), 'æ', 'ae'), 'þ', 'th'),
        '((?![\u0001-\u007f])[[:punct:]\ufe0e\ufe0f])+', ' ', 'g'),
        '(?<=[^\s"-])(?=[\u3005\u3040-\u30ff\u3400-\u9fff])|(?<=[\u3005\u3040-\u30ff\u3400-\u9fff])(?=[^\s"])', ' ', 'g'),
        '([-+_@./:][^-+_@./:\s]*){24}', '\& ', 'g')
$$;

-- As before (0004_courses_and_rights.sql), but that the parts of what is joined by dots and slashes are found too: Postgres
-- reads "TCP/IP" as a file and "Node.js" as a host, and only the whole was found.
CREATE OR REPLACE FUNCTION words_of(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('simple', folded(given)) || to_tsvector('english', folded(given))
        || to_tsvector('simple', translate(
            regexp_replace(folded(given), '(^|\s)[^\s./]+[./]*(?=\s|$)', ' ', 'g'), './', '  '))
$$;

-- What was written before is read anew.
ALTER TABLE courses
    ALTER COLUMN words SET EXPRESSION AS (setweight(words_of(title), 'A') || setweight(words_of(description), 'C')),
    ALTER COLUMN sort_title SET EXPRESSION AS (left(folded(title), 64));
ALTER TABLE transcript_chunks ALTER COLUMN tsv SET EXPRESSION AS (words_of(text));
ALTER TABLE text_pieces ALTER COLUMN tsv SET EXPRESSION AS (words_of(text));
ALTER TABLE forum_posts ALTER COLUMN words SET EXPRESSION AS (setweight(words_of(content), 'C'));
-- No reason to say that they were changed.
ALTER TABLE forum_topics DISABLE TRIGGER set_updated_at;
UPDATE forum_topics SET words = topic_words(id, title);
ALTER TABLE forum_topics ENABLE TRIGGER set_updated_at;

-- Who reads a forum page by page sees it as it was at the first page: a post that was written before that and committed
-- after it was seen by nobody then, and its topic must not jump over the reader's place. So a post knows its transaction;
-- those of before are of one that everybody sees. None takes as long as a minute.
ALTER TABLE forum_posts ADD COLUMN written_by xid8 NOT NULL DEFAULT '3';
ALTER TABLE forum_posts ALTER COLUMN written_by SET DEFAULT pg_current_xact_id();

-- When a topic was active last, as one saw it at that time. That of two arguments stays: processes that were started before
-- this ask it.
CREATE FUNCTION active_at(topic forum_topics, as_of timestamptz, seen pg_snapshot) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN topic.last_post_at <= as_of - interval '1 minute' THEN topic.last_post_at ELSE coalesce(
        (SELECT created_at FROM forum_posts
         WHERE topic_id = topic.id AND deleted_at IS NULL
           AND (created_at <= as_of - interval '1 minute' OR pg_visible_in_snapshot(written_by, seen))
         ORDER BY id DESC LIMIT 1),
        topic.created_at) END
$$;
