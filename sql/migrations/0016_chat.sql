-- Conversations with the tutor. A turn is a question and what became of it; while it runs its text is in the user's stream
-- in Redis, afterwards here.

-- `last_turn` never goes back, also when conversations are deleted: the ids of the stream begin with it. Its row is what
-- serialises a user's turns.
CREATE TABLE chat_accounts (
    user_id uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    last_turn integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- `updated_at` is that of its last message.
CREATE TABLE conversations (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conversations_user_id_idx ON conversations (user_id, updated_at DESC);

CREATE TABLE chat_turns (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    number integer NOT NULL CONSTRAINT chat_turns_number CHECK (number >= 1),
    -- The client's own name for the message: one that comes again is the same turn.
    client_msg_id text NOT NULL CONSTRAINT chat_turns_client_msg_id_length CHECK (length(client_msg_id) BETWEEN 1 AND 320),
    retry_of uuid REFERENCES chat_turns ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'running'
        CONSTRAINT chat_turns_status CHECK (status IN ('running', 'done', 'stopped', 'failed')),
    -- Why it failed, and whether the question may be asked again.
    code text,
    retryable boolean NOT NULL DEFAULT false,
    -- The fence: whoever raised it last may write.
    epoch bigint NOT NULL DEFAULT 1,
    owner uuid NOT NULL,
    stop_asked boolean NOT NULL DEFAULT false,
    question text NOT NULL,
    course_id uuid REFERENCES courses ON DELETE SET NULL,
    lecture_id uuid REFERENCES lectures ON DELETE SET NULL,
    position_ms integer CONSTRAINT chat_turns_position CHECK (position_ms >= 0),
    -- What answered: a model, or the material's own words.
    source text CONSTRAINT chat_turns_source CHECK (source IN ('model', 'transcript')),
    -- The lengths of the answer's chunks, in characters: so a client that has some gets the others from here too.
    chunks integer[] NOT NULL DEFAULT '{}',
    -- The UTC day on whose account it is, what was reserved there, and what it took.
    day date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    reserved_tokens bigint NOT NULL DEFAULT 0,
    reserved_micros bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT chat_turns_client_msg_id_key UNIQUE (user_id, client_msg_id),
    CONSTRAINT chat_turns_number_key UNIQUE (user_id, number)
);
CREATE UNIQUE INDEX chat_turns_running_key ON chat_turns (user_id) WHERE status = 'running';
CREATE INDEX chat_turns_owner_idx ON chat_turns (owner) WHERE status = 'running';
CREATE INDEX chat_turns_conversation_id_idx ON chat_turns (conversation_id);
CREATE INDEX chat_turns_retry_of_idx ON chat_turns (retry_of);
CREATE INDEX chat_turns_course_id_idx ON chat_turns (course_id);
CREATE INDEX chat_turns_lecture_id_idx ON chat_turns (lecture_id);

-- What was said, in the order of ids. A turn that failed before its first word has no answer here.
CREATE TABLE chat_messages (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    turn_id uuid NOT NULL REFERENCES chat_turns ON DELETE CASCADE,
    is_user boolean NOT NULL,
    message text NOT NULL,
    course_id uuid REFERENCES courses ON DELETE SET NULL,
    lecture_id uuid REFERENCES lectures ON DELETE SET NULL,
    position_ms integer,
    citations jsonb NOT NULL DEFAULT '[]',
    recommendations jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT chat_messages_turn_key UNIQUE (turn_id, is_user)
);
CREATE INDEX chat_messages_user_id_idx ON chat_messages (user_id, id DESC);
CREATE INDEX chat_messages_conversation_id_idx ON chat_messages (conversation_id, id DESC);
CREATE INDEX chat_messages_course_id_idx ON chat_messages (course_id);
CREATE INDEX chat_messages_lecture_id_idx ON chat_messages (lecture_id);

-- Tokens a user took, and what all of them cost, by UTC day; what is reserved for turns that run is in it.
CREATE TABLE chat_usage (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    day date NOT NULL,
    tokens bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, day)
);
CREATE TABLE chat_spend (
    day date PRIMARY KEY,
    -- Millionths of the unit that `openai.input_price` is in.
    micros bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['chat_accounts', 'conversations', 'chat_turns', 'chat_messages', 'chat_usage', 'chat_spend'] LOOP
        EXECUTE format('CREATE TRIGGER set_updated_at BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION set_updated_at()', name);
    END LOOP;
END $$;
