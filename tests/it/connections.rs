//! Reaching a NATS server: every way to log in, TLS, several servers, and what is said when it does not work.
