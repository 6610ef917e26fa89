//! Settings that are never shown.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConnectorError, os};

/// A setting that may be a secret: it is shown in no error and no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Secret(String);

impl Secret {
    /// A secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Checks that a token is given in one way at most.
pub(super) fn check_token(token: Option<&Secret>, file: Option<&Path>) -> Result<(), ConnectorError> {
    match (token, file) {
        (Some(_), Some(_)) => {
            Err(ConnectorError::Fatal("`token` and `token_file`: set one of them".to_owned()))
        }
        (Some(token), None) => sound(token.reveal(), "`token`").map(drop),
        _ => Ok(()),
    }
}

/// The token of a spec, read from its file where it has one.
pub(super) fn token(token: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, ConnectorError> {
    let Some(file) = file else { return Ok(token.cloned()) };
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| os::fatal(format!("`token_file`: cannot read {shown}"), &e))?;
    sound(text.trim(), &format!("the token in {shown}")).map(Some)
}

fn sound(token: &str, what: &str) -> Result<Secret, ConnectorError> {
    let is_sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    is_sound.then(|| Secret::new(token)).ok_or_else(|| {
        ConnectorError::Fatal(format!(
            "{what} is empty, or has spaces or characters that a header can't have: set a random text, as of `openssl rand -hex 32`"
        ))
    })
}
