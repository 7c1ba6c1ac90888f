//! The Secret Service.
