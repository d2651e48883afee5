-- One that was used, or ended by another password, stays until it is out of date: its mail may be sent once more, by who
-- does not know that it went out, and must not make it good again.
ALTER TABLE mail_tokens ADD COLUMN used_at timestamptz;
