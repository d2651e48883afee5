-- Whose role or password changed lately is asked every few seconds by every process: those whose sockets have to end.
CREATE INDEX users_updated ON users (updated_at) WHERE ver > 1;
