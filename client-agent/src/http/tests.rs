//! The API from outside.
