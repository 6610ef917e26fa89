//! The token of a spec.

use std::path::Path;

use crate::secret::Secret;
use crate::{ConnectorError, os};

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
