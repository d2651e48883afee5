-- Words are found whatever signs stand beside them. Where a database's locale is C, as the embedded one's, Postgres' parser
-- takes every character beyond ASCII for a letter: “queue”, l’algorithme, great😀 and 日本語。 were words of their own, which
-- nobody who looks for the word alone ever found.

-- As before (0033_any_text_can_be_searched.sql), but that typographic apostrophes, quotes and hyphens are those of a keyboard,
-- other signs beyond ASCII separate words, what is invisible within a word is none of it, and letters that are written in two
-- ways are one: ς is σ, ß is ss. Chinese and Japanese are written without blanks: each of their characters is a word.
CREATE OR REPLACE FUNCTION folded(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(
        replace(translate(
            lower(normalize(regexp_replace(normalize(given, NFKD), '[\u0300-\u036f\u00ad\u200b\u2060\ufeff]', '', 'g'), NFKC)
                COLLATE pg_c_utf8),
            'ς’‘ʼ“”„«»‐', 'σ''''''"""""-'), 'ß', 'ss'),
        '((?![\u0001-\u007f])[[:punct:]\ufe0e\ufe0f])+', ' ', 'g'),
        '(?<=[^\s"-])(?=[\u3005\u3040-\u30ff\u3400-\u9fff])|(?<=[\u3005\u3040-\u30ff\u3400-\u9fff])(?=[^\s"])', ' ', 'g'),
        '([-+_@./:][^-+_@./:\s]*){24}', '\& ', 'g')
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
