-- Open pages ask every few seconds whose enrolments have just changed.
CREATE INDEX enrollments_updated_at_idx ON enrollments (updated_at);
