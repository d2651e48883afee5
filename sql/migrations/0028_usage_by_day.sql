-- What was used long ago is swept every minute by every process.
CREATE INDEX chat_usage_day_idx ON chat_usage (day);
