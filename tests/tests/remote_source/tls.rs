//! TLS, and who may write.
