//! Whether a server keeps what it answered, when it is killed.

use redis::{Connection, RedisResult};
use wasmill_engine::state::StoreError;

use crate::redis_link::SharedLink;

/// Makes sure that a server syncs each write before it answers, where a pipeline must be exactly once. A server
/// that doesn't tell its settings is warned of.
pub(super) fn check(link: &SharedLink, address: &str) -> Result<(), StoreError> {
    let ask = |c: &mut Connection| -> RedisResult<Option<[String; 2]>> {
        let mut found = [String::new(), String::new()];
        for (name, value) in ["appendonly", "appendfsync"].into_iter().zip(&mut found) {
            match redis::cmd("CONFIG").arg("GET").arg(name).query::<Vec<String>>(c) {
                Ok(answer) => *value = answer.into_iter().nth(1).unwrap_or_default(),
                Err(e) if e.code() == Some("NOPERM") || e.to_string().contains("unknown command") => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(found))
    };
    match link.call("cannot ask for the settings", ask)? {
        None => {
            tracing::warn!(
                redis = %address,
                "this Redis doesn't tell its settings: outputs are exactly once only if it has `appendonly yes` and `appendfsync always`"
            );
            Ok(())
        }
        Some([only, fsync]) if only == "yes" && fsync == "always" => Ok(()),
        Some([only, fsync]) => Err(StoreError::Io {
            what: format!("{address} may forget what it has answered"),
            cause: format!(
                "it has `appendonly {only}` and `appendfsync {fsync}`, and the pipeline must be exactly once: set `appendonly yes` and `appendfsync always` in its configuration (at once: CONFIG SET appendonly yes, CONFIG SET appendfsync always), or let the pipeline be `delivery: at_least_once`"
            ),
        }),
    }
}
